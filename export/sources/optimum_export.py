"""Exports a transformers model through optimum instead of torch's own exporter, under the checkpoint's names."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from torch import Tensor
from transformers import PreTrainedModel

from zoedge.errors import InputError
from zoedge.manifest import Dim

from ..surgery.graph import Graph
from .hf_plan import ExportPlan
from .onnx_clean import place_tensors
from .onnx_reference import Fill
from .onnx_tensors import Array, read_tensors
from .onnx_text_inputs import IDS, text_inputs
from .onnx_wire import read_skeleton
from .quiet import quiet
from .torch_graph import LOGITS, TorchGraph
from .torch_state import TorchState, as_array

_TASKS = {"regression": "text-classification"}  # optimum's name where it is another


def optimum_graph(
    model: PreTrainedModel, state: TorchState, plan: ExportPlan, output_dims: tuple[Dim, ...]
) -> tuple[TorchGraph, Fill]:
    """Return what optimum makes of a model, each tensor of ``state`` being one initializer of its own name.

    Inputs of text models are tokens and masks alone, positions are counted inside.

    Args:
        model: in eval mode, with a head of its own.
        state: its tensors.
        plan: names the task.
        output_dims: shape to declare for the logits.

    Returns:
        The graph, and what turns its inputs into those that the model is to be compared on: with positions
        where optimum gives them, as some models count those of padding otherwise.

    Raises:
        InputError: optimum doesn't know the architecture or the task, fails, or rewrites tensors.
    """
    task = _TASKS.get(plan.task, plan.task)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with _told_apart(state):
            _export(model, task, path)
        skeleton = read_skeleton(path)
        proto, arrays = skeleton.model, read_tensors(path, skeleton)
        used = _name_tensors(proto, state)
        own = {tensor.name for tensor in proto.graph.initializer} - used
        # the file is about to go
        constants = {name: np.array(array) for name, array in arrays.items() if name in own}
    _check_rewritten(proto, constants, state, used, type(model).__name__)
    fill: Fill = dict
    if any(value.name == IDS for value in proto.graph.input):
        text = text_inputs(proto, (), 0, None, type(model).__name__)
        text.adapt(proto)
        fill = text.fill
    every: dict[str, Array] = {name: as_array(tensor) for name, tensor in state.tensors.items()}
    outside = place_tensors(proto, every | constants, used)
    _declare(proto, output_dims)
    parameters = tuple(name for name in state.tensors if name in state.parameters and name in used)
    return TorchGraph(proto, every | outside, parameters), fill


def _export(model: PreTrainedModel, task: str, path: Path) -> None:
    kind = str(model.config.model_type)
    try:
        with quiet():
            known = TasksManager.get_supported_tasks_for_model_type(kind, "onnx", library_name="transformers")
            if task not in known:
                raise InputError(
                    f"optimum can't export {kind} for {task} (it can for {', '.join(known)}): leave "
                    "--exporter optimum out"
                )
            make = TasksManager.get_exporter_config_constructor(
                "onnx", model, task=task, library_name="transformers"
            )
            config = make(model.config)
            export(model, config, path, opset=config.DEFAULT_ONNX_OPSET, do_constant_folding=False)
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"optimum can't export {kind} for {task} ({first}): leave --exporter optimum out"
        ) from error


@contextmanager
def _told_apart(state: TorchState) -> Iterator[None]:
    """Give tensors of equal value others for a while, as torch's tracer makes one initializer of those."""
    groups: dict[bytes, list[Tensor]] = {}
    for tensor in state.tensors.values():
        if tensor.is_floating_point() and tensor.numel():
            digest = hashlib.blake2b(as_array(tensor).tobytes() + str(tuple(tensor.shape)).encode()).digest()
            groups.setdefault(digest, []).append(tensor)
    changed = [tensor for group in groups.values() if len(group) > 1 for tensor in group]
    own = [tensor.data for tensor in changed]
    generator = torch.Generator().manual_seed(0)
    try:
        for tensor in changed:
            tensor.data = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        yield
    finally:
        for tensor, data in zip(changed, own, strict=True):
            tensor.data = data


def _name_tensors(proto: onnx.ModelProto, state: TorchState) -> set[str]:
    """Give initializers of the state their canonical names, in place, one for tied ones; return those."""
    graph = Graph(proto)
    used: dict[str, onnx.TensorProto] = {}
    others = []
    for name, tensor in graph.initializers.items():
        own = state.canonical.get(name)
        if own is None:
            others.append(tensor)
            continue
        if own != name:
            for node in graph.consumers(name):
                Graph.reread(node, name, own)
            tensor.name = own
        used.setdefault(own, tensor)
    nodes = list(graph.nodes)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*used.values(), *others])
    return set(used)


def _check_rewritten(
    proto: onnx.ModelProto, constants: dict[str, Array], state: TorchState, used: set[str], name: str
) -> None:
    """Refuse a graph that computes with something made of parameters, which could not be trained or merged back.

    Raises:
        InputError: parameters are missing and matrices of floats without a name of the model are there.
    """
    missing = [each for each in state.tensors if each in state.parameters and each not in used]
    floats = (t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT and t.name in constants)
    made = [tensor.name for tensor in floats if len(tensor.dims) >= 2]
    if missing and made:
        raise InputError(
            f"optimum merges {missing[0]} and {len(missing) - 1} more tensors of {name} into others, so they can't "
            "be trained under their names: leave --exporter optimum out"
        )


def _declare(proto: onnx.ModelProto, dims: tuple[Dim, ...]) -> None:
    output = next(value for value in proto.graph.output if value.name == LOGITS)
    output.CopyFrom(onnx.helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, list(dims)))
    del proto.graph.output[:]
    proto.graph.output.append(output)
