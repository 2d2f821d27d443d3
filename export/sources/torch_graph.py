"""One torch module -> one ONNX graph without data, and its tensors by their own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from zoedge.errors import InputError
from zoedge.manifest import WEIGHTS_FILE, Dim

from .quiet import quiet
from .torch_clean import clean_traced
from .torch_state import TorchState, as_array

LOGITS = "logits"  # what the graph's output is called where the source has no other name
_INLINE_BYTES = 1 << 16  # a constant that is no state of the model stays in the graph up to this size
_PREFIX = "module."

DynamicDims = Mapping[str, Mapping[int, str]]  # input -> axis -> name of the dimension


@dataclass(frozen=True)
class TorchGraph:
    """The parts of an ``Exported`` that tracing gives; see there."""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray[Any, Any]]
    parameters: tuple[str, ...]


def pick(output: Any, name: str) -> Tensor:
    """Return the tensor ``name`` of a module's output: itself, an entry of a mapping, the first of a tuple.

    Raises:
        InputError: the output holds no such tensor.
    """
    if isinstance(output, Mapping):
        if name not in output:
            raise InputError(f"the model's output has no {name}: it has {', '.join(map(str, output))}")
        output = output[name]
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"the model's output {name} is no tensor but {type(output).__name__}")
    return output


def trace(
    module: nn.Module,
    state: TorchState,
    inputs: Mapping[str, Tensor],
    dims: DynamicDims,
    *,
    output: str = LOGITS,
    called: str = LOGITS,
    output_dims: tuple[Dim, ...] | None = None,
    largest: Mapping[str, int] | None = None,
) -> TorchGraph:
    """Export ``module(**inputs)[output]`` with each tensor of ``state`` as one initializer.

    Args:
        module: in eval mode, on the CPU.
        state: the module's tensors and their names.
        inputs: example inputs; a dynamic axis needs a size of at least 2 here.
        dims: the dynamic axes.
        output: which output of the module.
        called: the name of the graph's output, which no tensor has: ``free_name``.
        output_dims: shape to declare for it; None keeps the exporter's.
        largest: name of a dimension -> its largest size, where the model has a limit.

    Raises:
        InputError: torch can't trace the module, or an input has the name of a tensor.
    """
    clash = [name for name in inputs if name in state.tensors]
    if clash:
        raise InputError(f"{clash[0]} is an input and a parameter of the model: rename one of them")
    model = _export(module, inputs, dims, output, largest or {})
    model.graph.outputs[0].name = called
    clean_traced(model, {_PREFIX + name for name in state.canonical})
    weights = _name_tensors(model, state)
    if output_dims is not None:
        model.graph.outputs[0].shape = ir.Shape(output_dims)
    used = frozenset(model.graph.initializers)
    every = {name: as_array(tensor) for name, tensor in state.tensors.items()} | weights
    parameters = tuple(name for name in state.tensors if name in state.parameters and name in used)
    return TorchGraph(_without_data(model, every), every, parameters)


class _Named(nn.Module):  # type: ignore[misc]
    """Positional arguments in, one tensor out: what the exporter handles best."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.module = module
        self._names = names
        self._output = output

    def forward(self, *values: Tensor) -> Tensor:
        return pick(self.module(**dict(zip(self._names, values, strict=True))), self._output)


def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    dims: DynamicDims,
    output: str,
    largest: Mapping[str, int],
) -> ir.Model:
    names = tuple(inputs)
    every = {size for axes in dims.values() for size in axes.values()}
    sizes = {size: torch.export.Dim(size, max=largest.get(size)) for size in every}
    shapes = tuple({axis: sizes[size] for axis, size in dims.get(name, {}).items()} for name in names)
    # The exporter confuses inputs that are one tensor object, so each is a copy.
    values = tuple(value.detach().clone() for value in inputs.values())
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Named(module, names, output).eval(),
                values,
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=names,
                output_names=[output],
                dynamic_shapes=(shapes,),
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"torch can't export this model with dynamic shapes: {_cause(error)}") from error
    return program.model


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error, which says what failed and not where it was noticed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _name_tensors(model: ir.Model, state: TorchState) -> dict[str, np.ndarray[Any, Any]]:
    """Give initializers the source's names, one for tied ones; return large constants among the others."""
    graph = model.graph
    _free_names(graph, frozenset(state.tensors))
    constants: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in list(graph.initializers.items()):
        plain = name.removeprefix(_PREFIX)
        own = state.canonical.get(plain)
        if own is None:
            if value.const_value is not None and value.const_value.nbytes > _INLINE_BYTES:
                value.name = plain
                constants[plain] = np.ascontiguousarray(value.const_value.numpy())
        elif own in graph.initializers and own != name:
            value.replace_all_uses_with(graph.initializers[own])
            del graph.initializers[name]
        else:
            value.name = own
    return constants


def _free_names(graph: ir.Graph, wanted: frozenset[str]) -> None:
    """Rename intermediate values whose name a tensor is about to get."""
    for node in graph:
        for value in node.outputs:
            if value.name in wanted:
                value.name = f"{value.name}.value"


def _without_data(model: ir.Model, weights: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Serialise the graph with references in place of ``weights``, so no size limit applies."""
    for name, value in model.graph.initializers.items():
        if name in weights:
            tensor = value.const_value
            value.const_value = ir.ExternalTensor(
                WEIGHTS_FILE, None, None, tensor.dtype, shape=tensor.shape, name=name
            )
    return ir.to_proto(model)
