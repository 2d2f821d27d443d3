"""Source 3: any ``.onnx`` file; needs the packages onnx and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import version_converter

from zoedge.errors import InputError
from zoedge.export.exported import Exported
from zoedge.manifest import Source

from ..ports import find_value, port_of
from ..surgery.graph import Graph
from ..surgery.roles import is_parameter, is_statistic
from ..surgery.subgraphs import flattened
from ..surgery.trainables import KEYWORDS
from .feature_names import feature_names
from .inference_form import refuse_random, to_inference_form
from .onnx_clean import (
    drop_default_inputs,
    hoist_constants,
    inline_functions,
    own_zero_points,
    place_tensors,
    split_shared,
)
from .onnx_describe import describe
from .onnx_logits import find_logits
from .onnx_output import choose_output, choose_task
from .onnx_subgraphs import lift_tensors
from .onnx_tensors import Array, read_tensors, tensor_reader
from .onnx_unfuse import unfuse_gemm
from .onnx_wire import read_skeleton

if TYPE_CHECKING:
    from .onnx_text_inputs import TextInputs

MIN_OPSET = 11  # GatherElements
_CONVERTED_OPSET = 18


def from_onnx(
    path: str | Path,
    *,
    task: str | None = None,
    loss: str | None = None,
    output_name: str | None = None,
    labels: tuple[str, ...] = (),
    example_inputs: Mapping[str, Any] | None = None,
    named: Collection[str] = (),
    text: TextInputs | None = None,
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
        text: its inputs where it reads text; None where rows are arrays.
        say: is told what the user should know.

    Raises:
        InputError: the file can't be read or run, or the options don't fit it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} doesn't exist: give the path of an .onnx file")
    task, loss = choose_task(task, loss)
    named = set(named).difference(KEYWORDS)  # exporters call a tensor "full"
    model, arrays = _read(path, named, say)
    if text is not None and text.adapt(model):
        say(f"{path.name} keeps caches of earlier tokens, which the bundle's graphs read and write no more")
    graph = Graph(model)
    output = choose_output(graph, output_name, loss, path.name, say)
    refuse_random(graph, output, path.name)
    found = find_logits(path, graph, output, loss, example_inputs, text, say)
    model.graph.node.extend(found.made.nodes)
    describe(model, found)
    ports = tuple(port_of(value) for value in model.graph.input)
    parameters = _parameters(Graph(model), arrays, named)
    weights = place_tensors(model, arrays, parameters)
    exported = Exported(
        model=model,
        weights=weights,
        parameters=parameters,
        task=task,
        loss=loss,
        logits=found.made.name,
        labels=labels,
        feature_names=feature_names(model, ports, say),
        source=Source(kind="onnx", name=path.name, versions={"onnx": version("onnx")}),
        reference=found.reference,
        sample_inputs=found.sample,
        batch_axes=found.axes,
        head_output=found.made.source,
        rounded=found.made.rounded,
    )
    _check_labels(exported)
    return exported


def _read(
    path: Path, named: Collection[str], say: Callable[[str], None]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a graph in which each weight is one initializer, and the tensors."""
    skeleton = read_skeleton(path)
    model, arrays = skeleton.model, read_tensors(path, skeleton)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise InputError(f"{path} has opset {opset} and zoedge needs {MIN_OPSET} or later: {_newer(path)}")
    model = inline_functions(model)
    changed = to_inference_form(model)
    if changed is not None:
        say(changed)
    drop_default_inputs(model)
    unfuse_gemm(model.graph)
    lift_tensors(model, arrays, tensor_reader(path))
    hoist_constants(model, arrays)
    split_shared(model, arrays, named)
    own_zero_points(model, arrays)
    return model, arrays


def _newer(path: Path) -> str:
    """Return how to get a file of a newer opset: onnx's converter knows most operators, and is tried."""
    try:
        converted = version_converter.convert_version(onnx.load(str(path)), _CONVERTED_OPSET)
        onnx.checker.check_model(converted)
    except Exception:  # the converter's errors share no base
        return "export it again from where it was made, with a newer one"
    return f"convert it with onnx.version_converter.convert_version(model, {_CONVERTED_OPSET})"


def _parameters(graph: Graph, arrays: Mapping[str, Array], named: Collection[str]) -> tuple[str, ...]:
    flat = flattened(graph)
    floats = (
        n for n, t in graph.initializers.items() if n in arrays and t.data_type == onnx.TensorProto.FLOAT
    )
    return tuple(n for n in floats if not is_statistic(flat, n) and (n in named or is_parameter(flat, n)))


def _check_labels(exported: Exported) -> None:
    shape = port_of(find_value(exported.model, exported.logits)).shape
    axis = exported.batch_axes.get(exported.logits, 0)
    shape = (*shape[:axis], *shape[axis + 1 :])  # of a row
    if exported.labels and exported.task == "regression":
        raise InputError("labels are given for a regression, which has none: leave them out")
    classes = shape[-1] if shape else 1
    if exported.labels and classes != len(exported.labels):
        raise InputError(
            f"{len(exported.labels)} labels are given and {exported.logits} has {classes} classes: make them equal"
        )
