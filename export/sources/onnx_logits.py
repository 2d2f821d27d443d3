"""Finds the logits of an ONNX file and its batch: what goes into a softmax or a sigmoid, tried on the file itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoedge.errors import InputError
from zoedge.manifest import Port

from ..ports import is_tensor, kind_of, port_of
from ..surgery.graph import Graph, dims_of
from .activation import (
    LOG_SIGMOID,
    LOG_SOFTMAX,
    PAIR,
    SIGMOID,
    SOFTMAX,
    Activation,
    find_activation,
    logits_nodes,
    looks_like,
    probabilities,
)
from .batch_axes import BatchAxes, find_batch_axes
from .onnx_inputs import onnx_samples
from .onnx_reference import OnnxReference

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, Reference, SampleInputs

    from .onnx_text_inputs import TextInputs

Array = np.ndarray[Any, Any]

_TAKEN = {  # what a loss computes itself
    "cross-entropy": (SOFTMAX, LOG_SOFTMAX, PAIR, SIGMOID, LOG_SIGMOID),
    "bce-with-logits": (SIGMOID, LOG_SIGMOID),
    "mse": (),
}
_TOLERANCE = 2e-3  # of probabilities: clipped ones and those of float16 differ a little
_SIZES = ((2, 8), (3, 17))  # (batch, length)


@dataclass(frozen=True)
class Found:
    """What running a file tells.

    Attributes:
        logits: name of the value that the loss is computed from.
        nodes: that make it, where it isn't in the file.
        axes: input or logits -> axis of the batch, where it isn't the first.
        reference: runs the file.
        sample: makes inputs.
        runs: (inputs, outputs) of two sizes.
    """

    logits: str
    nodes: tuple[onnx.NodeProto, ...]
    axes: dict[str, int]
    reference: Reference
    sample: SampleInputs
    batch: BatchAxes
    runs: tuple[tuple[Arrays, Arrays], ...]


@dataclass(frozen=True)
class _Candidate:
    """Logits that may be those of the output: nodes that make them, and their name."""

    nodes: tuple[onnx.NodeProto, ...]
    name: str
    kind: str


def find_logits(
    path: Path,
    graph: Graph,
    output: str,
    loss: str,
    examples: Mapping[str, Any] | None,
    text: TextInputs | None,
    say: Callable[[str], None],
) -> Found:
    """Run a file in some ways and return what a loss is computed from, and where the batch is.

    Args:
        path: the file.
        graph: of it; new names are made in it.
        output: the value that was chosen.
        loss: a loss of the manifest.
        examples: as for ``onnx_samples``.
        text: makes the inputs where the file reads text.
        say: is told what is taken for the output, and what looks wrong.

    Raises:
        InputError: an input is no tensor or has no batch axis, the file can't be run, or the output holds
            probabilities whose logits can't be used.
    """
    ports = _ports(graph, path.name)
    candidates = list(_candidates(graph, output, loss))
    added = tuple(node for candidate in candidates for node in candidate.nodes)
    fill = text.fill if text is not None else None
    reference = OnnxReference(path, graph, added, [output, *(c.name for c in candidates)], fill)

    def sampler(axes: Mapping[str, int]) -> SampleInputs:
        return text.sample if text is not None else onnx_samples(graph, ports, axes, examples)

    batch = find_batch_axes(ports, output, reference, sampler, path.name)
    sample = sampler(batch.inputs)
    rng = np.random.default_rng(0)
    cases = [sample(rng, *size) for size in _SIZES]
    runs = tuple((case, reference(case)) for case in cases)
    values = [run[output] for _, run in runs]
    chosen = next((c for c in candidates if _gives(c, [run for _, run in runs], values)), None)
    if chosen is None:
        _refuse_probabilities(graph, output, loss, candidates)
        likeness = looks_like(loss, values)
        if likeness is not None:
            say(
                f"{output} looks like probabilities: {likeness}; {loss} takes logits, so the loss is wrong if they "
                "are: then choose the value that they are made from with --output-name"
            )
        chosen = _Candidate((), output, "")
    else:
        say(
            f"{output} is a {chosen.kind}: the loss {loss} is computed from its input, {_before(graph, output)}"
        )
    axes = {name: axis for name, axis in {**batch.inputs, chosen.name: batch.output}.items() if axis}
    kept = OnnxReference(path, graph, chosen.nodes, [chosen.name], fill) if candidates else reference
    return Found(chosen.name, chosen.nodes, axes, kept, sample, batch, runs)


def _ports(graph: Graph, file: str) -> tuple[Port, ...]:
    """Return the inputs; dimensions without a name are ""."""
    values = [value for value in graph.proto.input if value.name in graph.inputs]
    for value in values:
        if not is_tensor(value):
            raise InputError(
                f"the input {value.name} of {file} is {kind_of(value)} and no tensor: export the file with "
                "tensors alone"
            )
    if not values:
        raise InputError(f"{file} has no inputs: export it with the model's inputs")
    return tuple(Port(name=v.name, dtype=port_of(v).dtype, shape=dims_of(v) or ()) for v in values)


def _candidates(graph: Graph, output: str, loss: str) -> Iterator[_Candidate]:
    """Yield what the logits of an output of probabilities may be, the plainest first."""
    found = find_activation(graph, output) if _TAKEN[loss] else None
    if found is None or found.kind not in _TAKEN[loss]:
        return
    if loss == "cross-entropy" and found.kind in (
        SIGMOID,
        LOG_SIGMOID,
    ):  # one probability stands for two classes
        found = replace(found, kind=PAIR)
    if not found.pair:
        yield _Candidate((), found.before, found.kind)
    if found.moves or found.pair:
        nodes, name = logits_nodes(graph, found)
        yield _Candidate(tuple(nodes), name, found.kind)


def _gives(candidate: _Candidate, runs: list[Arrays], outputs: list[Array]) -> bool:
    """Whether probabilities of a candidate are what the output holds."""
    pairs = zip(runs, outputs, strict=True)
    return all(_is_close(candidate.kind, run[candidate.name], output) for run, output in pairs)


def _is_close(kind: str, logits: Array, output: Array) -> bool:
    made = probabilities(SOFTMAX if kind == PAIR else kind, logits)
    if kind == PAIR and output.shape[-1:] == (1,):
        made = made[..., 1:]
    if made.shape != output.shape:
        return False
    if kind in (LOG_SOFTMAX, LOG_SIGMOID):
        made, output = np.exp(made), np.exp(output)
    return bool(np.allclose(made, output, rtol=0.0, atol=_TOLERANCE))


def _refuse_probabilities(graph: Graph, output: str, loss: str, tried: list[_Candidate]) -> None:
    """Refuse an output that the graph shows to be probabilities of another kind than the loss takes."""
    found: Activation | None = find_activation(graph, output) if _TAKEN[loss] else None
    if found is None:
        return
    if loss == "cross-entropy" and found.kind in (SIGMOID, LOG_SIGMOID):
        tried = []  # one sigmoid a class
    if tried:
        raise InputError(
            f"the output {output} is a {found.kind} of {found.before} over another axis than its last, and {loss} "
            "normalises the last: choose another value with --output-name"
        )
    other = "cross-entropy" if loss == "bce-with-logits" else "bce-with-logits"
    raise InputError(
        f"the output {output} is a {found.kind} of {found.before}, and {loss} would take its values for logits: use "
        f"--loss {other}"
    )


def _before(graph: Graph, output: str) -> str:
    found = find_activation(graph, output)
    return found.before if found is not None else output
