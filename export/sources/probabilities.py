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
from .likeness import BOUNDED, CLASSES, EACH, TOTALS, UNKNOWN, Likeness, likeness, without_logarithm
from .log_probabilities import LogNodes
from .unusable import refuse_other, refuse_steps

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


class LogitsValue(NamedTuple):
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


class FloatOutput(NamedTuple):
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


def find_source(
    source: FloatOutput, loss: str, first: Sequence[Array], say: Callable[[str], None]
) -> LogitsValue:
    """Return what a loss takes for logits: the output itself where its numbers are no probabilities.

    Args:
        source: the output.
        loss: of ``LOSSES``.
        first: values of the output in runs of two sizes.
        say: is told what is taken for the output.

    Raises:
        InputError: the output holds probabilities of a kind that the other loss takes.
    """
    output = source.output
    look = _look(source, first)
    if look is None:
        return LogitsValue(output)
    seen = likeness(look.rows, look.between.operators, log=look.log)
    found = _activation(source, loss, first, look, seen)
    if found is not None:
        logits, kind = found
        nodes, name = logits.nodes(source.graph)
        say(f"{output} is a {kind}: the loss {loss} is computed from its input, {logits.value}")
        return LogitsValue(name, nodes, logits.value)
    if BOUNDED.isdisjoint(look.between.operators):  # what is saturated isn't so everywhere
        refuse_steps(output, look.rows, look.sources)
    if seen is None or (look.log and loss == "cross-entropy"):
        return LogitsValue(output)  # log(p) is as good a logit as any
    if seen.kind == UNKNOWN:
        say(
            f"{output} gives the same numbers for every random input, so that nothing tells whether they are "
            f"probabilities: {loss} takes them for logits; example_inputs of to_bundle on which they differ tell it"
        )
        return LogitsValue(output)
    refuse_other(output, loss, seen, look.rows, text=source.text)
    return _from_logarithms(source, loss, look, seen, say)


class _Look(NamedTuple):
    """What runs on random inputs show: the values by name, the output with the batch first, whether it was a logarithm.

    All are float64; of logarithms, the output is the exponentials.
    """

    between: Behind
    runs: list[Arrays]
    rows: list[Array]
    log: bool

    @property
    def sources(self) -> dict[str, list[Array]]:
        """The values behind the output, those that are floats."""
        names = [name for name in self.between.sources if all(name in run for run in self.runs)]
        return {name: [run[name] for run in self.runs] for name in names}


def _look(source: FloatOutput, first: Sequence[Array]) -> _Look | None:
    """Run a file on more inputs; None where values show by their sign that they are logits."""
    between = behind(source.graph, source.output)
    shares, log = without_logarithm(first, between.operators)
    if any(not array.size or array.min() < _NEGATIVE * max(1.0, array.max()) for array in shares):
        return None
    runs = list(_runs(source, between, log=log))
    rows = [np.moveaxis(run[source.output], source.batch.output, 0) for run in runs]
    return _Look(between, runs, rows, log) if runs else None


def _runs(source: FloatOutput, between: Behind, *, log: bool) -> Iterator[Arrays]:
    """Yield values for random inputs, smaller ones and larger ones."""
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
            name: a.astype(np.float64)
            for name, a in got.items()
            if isinstance(a, np.ndarray) and a.dtype.kind == "f"
        }
        if log:  # what is above 0 is no logarithm of a share, and stays so
            floats[source.output] = np.exp(np.minimum(floats[source.output], 1.0))
        if np.isfinite(floats[source.output]).all():
            yield floats


def _activation(
    source: FloatOutput, loss: str, first: Sequence[Array], look: _Look, seen: Likeness | None
) -> tuple[Logits, str] | None:
    """Return the value whose softmax or sigmoid the output is, and that in words."""
    sizes = zip(*(array.shape for array in first), strict=True)
    shape = tuple(size if size == other else -1 for size, other in sizes)
    values = [run[source.output] for run in look.runs]
    quantised = "QuantizeLinear" in look.between.operators
    for total in TOTALS if seen is None else (seen.total,):
        output = Output(values, look.log, loss, source.batch.output, shape, total, quantised)
        # one row again and again fits whatever is constant: then only what an activation reads is believed
        known = {n: a for n, a in look.sources.items() if output.varies or n in look.between.activated}
        logits = find_activation(output, known)
        if logits is not None:
            return logits, logits.words(output)
    return None


def _from_logarithms(
    source: FloatOutput, loss: str, look: _Look, seen: Likeness, say: Callable[[str], None]
) -> LogitsValue:
    made = LogNodes(source.graph, source.output, seen, log=look.log)
    if loss == "bce-with-logits":
        name = made.of_each()
    elif seen.kind == EACH:
        name = made.of_second(0 if source.batch.output else 1)
    else:
        name = made.of_classes()
    rows = f"rows that sum to {seen.total:g}" if seen.kind == CLASSES else f"numbers from 0 to {seen.total:g}"
    near = "0 or 1" if seen.kind == EACH or loss == "bce-with-logits" else "0"
    say(
        f"{source.output} holds probabilities, {rows}, and no logits were found behind them: the loss {loss} is "
        f"computed from their logarithms; a probability nearer to {near} than {seen.least:.0e} trains no more"
    )
    head = next((value for value in look.between.sources if find_head(source.graph, value) is not None), "")
    return LogitsValue(name, tuple(made.nodes), head, rounded=True)
