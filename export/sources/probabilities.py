"""What a loss is computed from where an output holds probabilities: logits behind it, or else their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

from zoedge.errors import InputError

from ..surgery.graph import Graph
from ..surgery.head import find_head
from .activation import Logits, Output, find_activation
from .batch_axes import BatchAxes
from .behind import Behind, behind
from .likeness import CLASSES, EACH, TOTALS, UNKNOWN, Likeness, likeness, without_logarithm
from .log_probabilities import LogNodes

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, Reference, SampleInputs

Array = np.ndarray[Any, Any]
Open = Callable[
    [Sequence[str]], "Reference"
]  # names of inner values -> what runs the file and returns them, too

LOSSES = ("cross-entropy", "bce-with-logits")  # those that make probabilities of logits
_SIZE = (16, 8)  # (batch, length)
_SCALES = (1.0, 0.1, 10.0)  # of inputs: logits leave any range, and what is saturated does no more
_NEGATIVE = -1e-4  # of the largest value: rounding


class Made(NamedTuple):
    """What a loss takes for logits.

    Attributes:
        name: of the value.
        nodes: that make it, where it isn't in the file.
        source: the value of the file that they make it of; "" where that is no layer's.
        rounded: whether it is logarithms, which show how the file rounds probabilities.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...] = ()
    source: str = ""
    rounded: bool = False


class Source(NamedTuple):
    """An output of a file, and how the file is run.

    Attributes:
        graph: of the file; new names are made in it.
        output: of floats.
        open: runs the file.
        sample: makes inputs.
        batch: where the batch is.
        text: whether rows are texts.
    """

    graph: Graph
    output: str
    open: Open
    sample: SampleInputs
    batch: BatchAxes
    text: bool


def find_source(source: Source, loss: str, first: Sequence[Array], say: Callable[[str], None]) -> Made:
    """Return what a loss takes for logits: the output itself where its numbers are no probabilities.

    Args:
        source: the output.
        loss: of ``LOSSES``.
        first: values of the output in runs of two sizes.
        say: is told what is taken for the output.

    Raises:
        InputError: the output holds probabilities of a kind that the other loss takes.
    """
    output, between = source.output, behind(source.graph, source.output)
    shares, log = without_logarithm(first, between.operators)
    if any(not array.size or array.min() < _NEGATIVE * max(1.0, array.max()) for array in shares):
        return Made(output)
    runs = list(_runs(source, between, log=log))
    if not runs:
        return Made(output)
    values = [run[output] for run in runs]
    seen = likeness([np.moveaxis(array, source.batch.output, 0) for array in values], between.operators)
    found = _activation(source, loss, first, between, runs, seen, log=log)
    if found is not None:
        logits, kind = found
        nodes, name = logits.nodes(source.graph)
        say(f"{output} is a {kind}: the loss {loss} is computed from its input, {logits.value}")
        return Made(name, nodes, logits.value)
    return _from_logarithms(source, loss, values[0].shape, between, seen, say, log=log)


def _runs(source: Source, between: Behind, *, log: bool) -> Iterator[Arrays]:
    """Yield the output and the values behind it for random inputs, smaller ones and larger ones.

    Values are float64; of logarithms in the output, the exponentials.
    """
    inputs = source.sample(np.random.default_rng(6), *_SIZE)
    try:
        run = source.open(between.sources)
    except InputError:  # a value that no session gives
        run = source.open(())
    for scale in _SCALES:
        scaled = {n: (scale * a).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
        try:
            got = run(scaled)
        except InputError:  # an input of another size than the model is for
            continue
        floats = {
            n: a.astype(np.float64)
            for n, a in got.items()
            if getattr(a, "dtype", None) and a.dtype.kind == "f"
        }
        if log:
            floats[source.output] = np.exp(
                np.minimum(floats[source.output], 1.0)
            )  # more is no logarithm of a share
        if np.isfinite(floats[source.output]).all():
            yield floats


def _activation(
    source: Source,
    loss: str,
    first: Sequence[Array],
    between: Behind,
    runs: Sequence[Arrays],
    seen: Likeness | None,
    *,
    log: bool,
) -> tuple[Logits, str] | None:
    """Return the value whose softmax or sigmoid the output is, and that in words."""
    sizes = zip(*(array.shape for array in first), strict=True)
    shape = tuple(size if size == other else -1 for size, other in sizes)
    values = [run[source.output] for run in runs]
    for total in TOTALS if seen is None else (seen.total,):
        quantised = "QuantizeLinear" in between.operators
        output = Output(values, log, loss, source.batch.output, shape, total, quantised)
        # one row again and again fits whatever is constant: then only what an activation reads is believed
        names = [name for name in between.sources if output.varies or name in between.activated]
        known = {name: [run[name] for run in runs] for name in names if all(name in run for run in runs)}
        logits = find_activation(output, known)
        if logits is not None:
            return logits, logits.words(output)
    return None


def _from_logarithms(
    source: Source,
    loss: str,
    shape: tuple[int, ...],
    between: Behind,
    seen: Likeness | None,
    say: Callable[[str], None],
    *,
    log: bool,
) -> Made:
    output = source.output
    if seen is None or (log and seen.kind == CLASSES and loss == "cross-entropy"):
        return Made(output)  # log(p) is as good a logit as any
    if seen.kind == UNKNOWN:
        say(
            f"{output} gives the same numbers for every random input, so that nothing tells whether they are "
            f"probabilities: {loss} takes them for logits; example_inputs of to_bundle on which they differ tell it"
        )
        return Made(output)
    _check(source, loss, seen, shape)
    made = LogNodes(source.graph, output, seen, log=log)
    if loss == "bce-with-logits":
        name = made.of_each()
    elif seen.kind == EACH:
        name = made.of_second()
    else:
        name = made.of_classes()
    rows = f"rows that sum to {seen.total:g}" if seen.kind == CLASSES else f"numbers from 0 to {seen.total:g}"
    near = "0 or 1" if seen.kind == EACH or loss == "bce-with-logits" else "0"
    say(
        f"{output} holds probabilities, {rows}, and no logits were found behind them: the loss {loss} is computed from "
        f"their logarithms; a probability nearer to {near} than {seen.least:.0e} trains no more"
    )
    head = next((value for value in between.sources if find_head(source.graph, value) is not None), "")
    return Made(name, tuple(made.nodes), head, rounded=True)


def _check(source: Source, loss: str, seen: Likeness, shape: tuple[int, ...]) -> None:
    """Refuse probabilities that the other loss takes."""
    output = source.output
    if loss == "bce-with-logits" and seen.kind == CLASSES and len(shape) == 2:
        raise InputError(
            f"the output {output} holds probabilities of classes that exclude each other, rows that sum to "
            f"{seen.total:g}, and {loss} takes every class for itself: use --loss cross-entropy"
        )
    if loss == "cross-entropy" and seen.kind == EACH and (len(shape) != 2 or shape[-1] != 1):
        arrays = "--task classification with arrays named like its inputs, and " if source.text else ""
        raise InputError(
            f"the output {output} holds a probability for each class, whose rows don't sum to the same, and "
            f"{loss} takes classes that exclude each other: use {arrays}--loss bce-with-logits"
        )
