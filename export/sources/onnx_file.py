"""Source 3: any ``.onnx`` file; needs the packages onnx and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from zoedge.errors import InputError
from zoedge.export.exported import Exported
from zoedge.manifest import Dim, Source

from ..ports import find_value, port_of
from ..session import Session
from ..surgery.graph import Graph, dims_of
from ..surgery.roles import is_parameter, is_statistic
from .feature_names import feature_names
from .onnx_clean import (
    drop_default_inputs,
    hoist_constants,
    inline_functions,
    own_zero_points,
    place_tensors,
    split_shared,
)
from .onnx_inputs import onnx_samples
from .onnx_output import before_activation, choose_output, choose_task
from .onnx_tensors import Array, read_tensors
from .onnx_wire import read_skeleton

if TYPE_CHECKING:
    from zoedge.export.exported import Reference

MIN_OPSET = 11  # GatherElements


def from_onnx(
    path: str | Path,
    *,
    task: str | None = None,
    loss: str | None = None,
    output_name: str | None = None,
    labels: tuple[str, ...] = (),
    example_inputs: Mapping[str, Any] | None = None,
    named: Collection[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Read an ONNX file, embedded or with external data of any size, without copying its weights.

    Args:
        path: the file.
        task: classification or regression; None takes what goes with the loss.
        loss: cross-entropy, bce-with-logits or mse; None takes the task's first.
        output_name: the value to compute the loss from; None takes the only output.
        labels: class names in the order of the logits.
        example_inputs: input -> array to imitate when the export is checked; None draws some.
        named: initializers that are parameters by the user's word, also where they don't look learnt.
        say: is told what the user should know.

    Raises:
        InputError: the file can't be read or run, or the options don't fit it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} doesn't exist: give the path of an .onnx file")
    task, loss = choose_task(task, loss)
    model, arrays = _read(path, named)
    graph = Graph(model)
    output = choose_output(graph, output_name, path.name)
    logits = before_activation(graph, output, loss, say)
    parameters = _parameters(graph, arrays, named)
    weights = place_tensors(model, arrays, parameters)
    ports = tuple(port_of(value) for value in model.graph.input)
    internal = all(value.name != logits for value in model.graph.output)
    exported = Exported(
        model=model,
        weights=weights,
        parameters=parameters,
        task=task,
        loss=loss,
        logits=logits,
        labels=labels,
        feature_names=feature_names(model, ports, say),
        source=Source(kind="onnx", name=path.name, versions={"onnx": version("onnx")}),
        reference=_reference(path, logits, internal=internal),
        sample_inputs=onnx_samples(graph, ports, example_inputs),
    )
    _describe_outputs(exported)
    _check_labels(exported)
    return exported


def _read(path: Path, named: Collection[str]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a graph in which each weight is one initializer, and the tensors."""
    skeleton = read_skeleton(path)
    model, arrays = skeleton.model, read_tensors(path, skeleton)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise InputError(
            f"{path} has opset {opset} and zoedge needs {MIN_OPSET} or later: convert it with "
            "onnx.version_converter.convert_version(model, 18)"
        )
    model = inline_functions(model)
    drop_default_inputs(model)
    hoist_constants(model, arrays)
    split_shared(model, arrays, named)
    own_zero_points(model, arrays)
    return model, arrays


def _parameters(graph: Graph, arrays: Mapping[str, Array], named: Collection[str]) -> tuple[str, ...]:
    found = []
    for name in graph.initializers:
        array = arrays.get(name)
        if array is None or graph.initializers[name].data_type != onnx.TensorProto.FLOAT:
            continue
        if is_statistic(graph, name):
            continue
        if name in named or (array.ndim > 0 and array.size > 1 and is_parameter(graph, name)):
            found.append(name)
    return tuple(found)


def _reference(path: Path, logits: str, *, internal: bool) -> Reference:
    """Return a function that runs the original file, in one session; an internal value is returned too."""
    if internal:
        model = onnx.load(str(path), load_external_data=False)
        model.graph.output.append(helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
        session = Session(model.SerializeToString(), str(path), folder=path.parent, prepack=False)
    else:
        session = Session(path, str(path), prepack=False)
    return session.run


def _describe_outputs(exported: Exported) -> None:
    """Declare the shapes of the outputs and of the logits as runs of two sizes show them, in place.

    Raises:
        InputError: the logits aren't a float array whose first axis is the batch.
    """
    model, logits = exported.model, exported.logits
    rng = np.random.default_rng(0)
    cases = [exported.sample_inputs(rng, batch, length) for batch, length in ((2, 8), (3, 17))]
    runs = [exported.reference(case) for case in cases]
    first = next((port_of(v) for v in model.graph.input if dims_of(v)), None)
    if first is None:
        raise InputError(f"{exported.source.name} has no input with a batch axis: export it with one")
    batches = [len(case[first.name]) for case in cases]
    arrays = [run[logits] for run in runs]
    if not isinstance(arrays[0], np.ndarray) or arrays[0].dtype.kind != "f":
        raise InputError(f"the output {logits} is no array of floats: name another with --output-name")
    if any(array.shape[:1] != (batch,) for array, batch in zip(arrays, batches, strict=True)):
        raise InputError(
            f"the output {logits} has the shape {list(arrays[0].shape)} for a batch of {batches[0]}: its first "
            "axis must be the batch"
        )
    if all(value.name != logits for value in model.graph.output):
        model.graph.value_info.append(helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    described = [*model.graph.output, *(v for v in model.graph.value_info if v.name == logits)]
    for value in described:
        shapes = [np.shape(run[value.name]) for run in runs]
        kind = helper.np_dtype_to_tensor_dtype(runs[0][value.name].dtype)
        dims = _dims(value, shapes, batches, first.shape[0])
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, dims))


def _dims(
    value: onnx.ValueInfoProto, shapes: list[tuple[int, ...]], batches: list[int], batch: Dim
) -> list[Dim]:
    """Return a shape from two runs: sizes that differ between them are dynamic."""
    declared = dims_of(value) or ("",) * len(shapes[0])
    dims: list[Dim] = []
    for axis, (a, b) in enumerate(zip(*shapes, strict=True)):
        if axis == 0 and [a, b] == batches:
            dims.append(batch)
        elif a == b:
            dims.append(a)
        else:
            named = declared[axis] if axis < len(declared) else ""
            dims.append(named if isinstance(named, str) and named else f"{value.name}_axis{axis}")
    return dims


def _check_labels(exported: Exported) -> None:
    shape = port_of(find_value(exported.model, exported.logits)).shape
    if exported.labels and exported.task == "regression":
        raise InputError("labels are given for a regression, which has none: leave them out")
    if exported.labels and shape[-1] != len(exported.labels):
        raise InputError(
            f"{len(exported.labels)} labels are given and {exported.logits} has {shape[-1]} classes: make them equal"
        )
