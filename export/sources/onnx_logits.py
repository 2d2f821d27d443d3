"""Finds the logits of an ONNX file and its batch: what goes into a softmax or a sigmoid, tried on the file itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError
from zoedge.manifest import Port

from ..ports import is_tensor, port_kind, port_of
from ..surgery.graph import Graph, dims_of
from .batch_axes import BatchAxes, find_batch_axes
from .onnx_inputs import onnx_samples
from .onnx_reference import OnnxReference
from .probabilities import LOSSES, FloatOutput, LogitsValue, find_source

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, Reference, SampleInputs

    from .onnx_text_inputs import TextInputs

Array = np.ndarray[Any, Any]

_SIZES = ((2, 8), (3, 17))  # (batch, length)


@dataclass(frozen=True)
class Found:
    """What running a file tells.

    Attributes:
        made: what the loss is computed from.
        axes: input or logits -> axis of the batch, where it isn't the first.
        reference: runs the file.
        sample: makes inputs.
        runs: (inputs, outputs) of two sizes.
    """

    made: LogitsValue
    axes: dict[str, int]
    reference: Reference
    sample: SampleInputs
    batch: BatchAxes
    runs: tuple[tuple[Arrays, Arrays], ...]


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

    That is what goes into the softmax or sigmoid at the file's end where such nodes are found and give the output
    again; else logarithms of the output where its numbers are probabilities; else the output.

    Args:
        path: the file.
        graph: of it; new names are made in it.
        output: the value that was chosen.
        loss: a loss of the manifest.
        examples: as for ``onnx_samples``.
        text: makes the inputs where the file reads text.
        say: is told what is taken for the output.

    Raises:
        InputError: an input is no tensor or has no batch axis, the file can't be run, or the output holds
            probabilities of another kind than the loss takes.
    """
    ports = _ports(graph, path.name)
    fill = text.fill if text is not None else None

    def sampler(axes: Mapping[str, int]) -> SampleInputs:
        return text.sample if text is not None else onnx_samples(graph, ports, axes, examples)

    reference = OnnxReference(path, graph, (), [output], fill)
    batch = find_batch_axes(ports, output, reference, sampler, path.name)
    sample = sampler(batch.inputs)
    rng = np.random.default_rng(0)
    cases = [sample(rng, *size) for size in _SIZES]
    values = [reference(case)[output] for case in cases]
    made = LogitsValue(output)
    if loss in LOSSES:

        def inner(names: Sequence[str]) -> Reference:
            return OnnxReference(path, graph, (), [output, *names], fill) if names else reference

        source = FloatOutput(graph, output, inner, sample, batch, text is not None)
        made = find_source(source, loss, values, say)
    if made.name != output:
        reference = OnnxReference(path, graph, made.nodes, [made.name], fill)
    axes = {name: axis for name, axis in {**batch.inputs, made.name: batch.output}.items() if axis}
    runs = tuple((case, reference(case)) for case in cases)
    return Found(made, axes, reference, sample, batch, runs)


def _ports(graph: Graph, file: str) -> tuple[Port, ...]:
    """Return the inputs; dimensions without a name are ""."""
    values = [value for value in graph.proto.input if value.name in graph.inputs]
    for value in values:
        if not is_tensor(value):
            raise InputError(
                f"the input {value.name} of {file} is {port_kind(value)} and no tensor: export the file with "
                "tensors alone"
            )
    if not values:
        raise InputError(f"{file} has no inputs: export it with the model's inputs")
    return tuple(Port(name=v.name, dtype=port_of(v).dtype, shape=dims_of(v) or ()) for v in values)
