"""Source 2: any torch module with named tensor inputs and a tensor among its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError, near
from zoedge.export.exported import Exported
from zoedge.manifest import Dim, Port, Source

from .packages import need
from .samples import like_samples
from .torch_examples import as_tensors, check_call

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from zoedge.export.exported import SampleInputs

    from .torch_graph import DynamicDims

BATCH = "batch"
_LOSSES = {
    "classification": ("cross-entropy", "bce-with-logits"),
    "image-classification": ("cross-entropy",),
    "regression": ("mse",),
}


def from_module(
    module: nn.Module,
    example_inputs: Mapping[str, Any],
    *,
    task: str,
    output_name: str = "logits",
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    labels: tuple[str, ...] = (),
    loss: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Export a torch module to one graph, its inputs -> one output.

    Args:
        module: called as ``module(**example_inputs)`` in eval mode; float32, on the CPU; left as it was.
        example_inputs: one example of each input, by the names of ``forward``'s arguments: tensors, arrays or
            nested lists of numbers.
        task: classification, image-classification or regression.
        output_name: name of the graph's output, and the entry to take where the module returns a mapping
            (of a tuple the first is taken).
        dynamic_shapes: input -> axis -> name of the dimension, as {"x": {0: "batch"}}; None makes the first
            axis of every input "batch" and fixes the others.
        labels: class names in the order of the logits.
        loss: None takes the task's first: cross-entropy (or bce-with-logits) for classification, mse for
            regression.
        say: is told what looks wrong.

    Returns:
        The graph, and the tensors by their first names in the module's state dict.

    Raises:
        InputError: an unknown task or loss, inputs that don't fit, or a module that torch can't export.
        MissingPackageError: torch isn't installed.
    """
    need("torch", "onnx", "onnxscript", purpose="exporting a torch module")
    from ..surgery.graph import Graph
    from .batch_axes import find_batch_axes
    from .behind import behind
    from .torch_graph import trace
    from .torch_reference import evaluating, reference_of
    from .torch_state import collect, free_name

    loss = _loss(task, loss)
    state = collect(module)
    examples = _Examples.of(module, as_tensors(example_inputs), dynamic_shapes)
    check_call(module, examples.tensors)
    logits = free_name(output_name, state)
    reference = reference_of(module, output_name, called=logits)
    _check_output(reference(examples.arrays)[logits], output_name, task, labels)
    name = type(module).__name__
    batch = find_batch_axes(examples.ports, logits, reference, examples.sampler, name)
    sample = examples.sampler(batch.inputs)
    rng = np.random.default_rng(0)
    outputs = [np.moveaxis(reference(sample(rng, rows, 8))[logits], batch.output, 0) for rows in (16, 3)]
    with evaluating(module):
        graph = trace(module, state, examples.tensors, examples.dims, output=output_name, called=logits)
    _check_dynamic(graph.model, examples.shapes)
    _check_logits(outputs, behind(Graph(graph.model), logits).operators, loss, name)
    axes = {**batch.inputs, logits: batch.output}
    return Exported(
        model=graph.model,
        weights=graph.weights,
        parameters=graph.parameters,
        tied=state.tied,
        lookups=state.lookups,
        task=task,
        loss=loss,
        logits=logits,
        labels=labels,
        source=Source(kind="torch", name=name, versions=_versions()),
        reference=reference,
        sample_inputs=sample,
        batch_axes={name: axis for name, axis in axes.items() if axis},
    )


@dataclass(frozen=True)
class _Examples:
    """Example inputs that can be traced, and their dynamic axes."""

    tensors: dict[str, Tensor]
    dims: DynamicDims

    @classmethod
    def of(cls, module: nn.Module, inputs: Mapping[str, Tensor], given: DynamicDims | None) -> _Examples:
        dims = _dims(inputs, given)
        return cls(_examples(module, inputs, dims), dims)

    @property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        from .torch_state import as_array

        return {name: as_array(value) for name, value in self.tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[Dim, ...]]:
        return {name: _shape(value.shape, self.dims.get(name, {})) for name, value in self.tensors.items()}

    @property
    def ports(self) -> tuple[Port, ...]:
        arrays = self.arrays
        shapes = self.shapes.items()
        return tuple(Port(name=name, dtype=arrays[name].dtype.name, shape=shape) for name, shape in shapes)

    def sampler(self, axes: Mapping[str, int]) -> SampleInputs:
        """Return a generator of inputs with the batch on these axes."""
        batch = {shape[axes[name]] for name, shape in self.shapes.items()}
        named = {
            name: tuple(BATCH if dim in batch and isinstance(dim, str) else dim for dim in shape)
            for name, shape in self.shapes.items()
        }
        return like_samples(self.arrays, named)


def _loss(task: str, loss: str | None) -> str:
    if task not in _LOSSES:
        raise InputError(
            f"a torch module has no task {task!r}: use one of {', '.join(_LOSSES)}{near(task, _LOSSES)}"
        )
    if loss is not None and loss not in _LOSSES[task]:
        raise InputError(f"the task {task} has no loss {loss!r}: use {' or '.join(_LOSSES[task])}")
    return loss or _LOSSES[task][0]


def _dims(inputs: Mapping[str, Tensor], given: DynamicDims | None) -> DynamicDims:
    """Return the dynamic axes: those given, or the first axis of every input as the batch."""
    if given is None:
        return {name: {0: BATCH} for name, value in inputs.items() if value.ndim > 0}
    for name, axes in given.items():
        if name not in inputs:
            raise InputError(f"dynamic_shapes names {name}, which is no input{near(name, inputs)}")
        wrong = [axis for axis in axes if not 0 <= axis < inputs[name].ndim]
        if wrong:
            raise InputError(
                f"dynamic_shapes of {name} names axis {wrong[0]}: it has {inputs[name].ndim} axes"
            )
    return given


def _examples(module: nn.Module, inputs: Mapping[str, Tensor], dims: DynamicDims) -> dict[str, Tensor]:
    """Return example inputs whose dynamic axes are 2 or longer, as the exporter bakes in a size of 1.

    Raises:
        InputError: no inputs, names that ``forward`` doesn't take, another device or precision than float32
            on the CPU, or a dimension with two sizes.
    """
    if not inputs:
        raise InputError("example_inputs is empty: give one example tensor for each argument of forward")
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError as error:
        raise InputError(
            f"example_inputs {', '.join(inputs)} don't fit {type(module).__name__}.forward: {error}"
        ) from error
    tensors = {**module.state_dict(), **inputs}
    for name, value in tensors.items():
        if value.device.type != "cpu" or (value.is_floating_point() and str(value.dtype) != "torch.float32"):
            raise InputError(
                f"{name} is {value.dtype} on {value.device}: use module.float().cpu() and float32 inputs"
            )
    sizes: dict[str, int] = {}
    grown = dict(inputs)
    for name, axes in dims.items():
        for axis, dim in axes.items():
            size = inputs[name].shape[axis]
            if sizes.setdefault(dim, size) != size:
                raise InputError(
                    f"the dimension {dim} is {sizes[dim]} and, in {name}, {size}: make them equal"
                )
            if size == 1:
                grown[name] = grown[name].repeat_interleave(2, axis)
    return grown


def _check_dynamic(model: onnx.ModelProto, shapes: Mapping[str, tuple[Dim, ...]]) -> None:
    """Refuse a graph in which the exporter fixed what was to be dynamic."""
    for value in model.graph.input:
        for wanted, dim in zip(shapes[value.name], value.type.tensor_type.shape.dim, strict=True):
            if isinstance(wanted, str) and dim.HasField("dim_value"):
                raise InputError(
                    f"torch's exporter fixed the dimension {wanted} of {value.name} at {dim.dim_value}: leave it out "
                    "of dynamic_shapes"
                )


def _check_logits(
    outputs: Sequence[np.ndarray[Any, Any]], operators: Collection[str], loss: str, name: str
) -> None:
    """Refuse probabilities where the loss takes logits; log-probabilities of classes are logits, too."""
    from .likeness import CLASSES, UNKNOWN, likeness, without_logarithm

    shares, log = without_logarithm(outputs, operators)
    seen = likeness(shares, operators) if loss != "mse" else None
    if seen is None or seen.kind == UNKNOWN or (log and seen.kind == CLASSES and loss == "cross-entropy"):
        return
    rows = f"rows that sum to {seen.total:g}" if seen.kind == CLASSES else f"numbers from 0 to {seen.total:g}"
    raise InputError(
        f"{name}.forward returns {'logarithms of ' if log else ''}probabilities, {rows}, and {loss} takes logits: "
        "return what goes into the last softmax or sigmoid"
    )


def _check_output(output: np.ndarray[Any, Any], name: str, task: str, labels: tuple[str, ...]) -> None:
    if task == "regression":
        return
    if output.ndim != 2:
        raise InputError(
            f"the output {name} has the shape {list(output.shape)}: {task} needs logits of [batch, classes]"
        )
    if labels and len(labels) != output.shape[1]:
        raise InputError(
            f"{len(labels)} labels are given and {name} has {output.shape[1]} classes: make them equal"
        )


def _shape(shape: Sequence[int], axes: Mapping[int, str]) -> tuple[Dim, ...]:
    return tuple(axes.get(axis, int(size)) for axis, size in enumerate(shape))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "onnx", "onnxscript")}
