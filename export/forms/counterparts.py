"""The graphs of a bundle with every stored tensor as an input, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto

from zoedge.counterparts import INPUTS, counterpart
from zoedge.manifest import ACTIVATIONS_FILE, LOSS_FILE, PREFIX_FILE, SUFFIX_FILE, Manifest
from zoedge.names import PREDICT, PREDICTIONS, in_graph

from ..assemble import Assembled
from ..exported import Exported
from ..ports import port_of, value_of
from ..session import shapes_of_outputs
from ..surgery.as_inputs import declared_tensors, predict_always, stored_inputs
from ..surgery.graph import Graph
from ..surgery.stages import elem_types
from ..surgery.weights_only import multiply_floats

_SIZES = ((2, 3, 5, 7, 11, 13, 17, 19), (4, 9, 25, 49, 121, 169, 289, 361))  # no product of two is another's


class Counterpart(NamedTuple):
    """A graph whose stored tensors are inputs.

    Attributes:
        file: what it is called.
        original: the file that it stands for.
        predictions: whether it is the one that computes predictions in every pass.
        model: the finished graph.
        tensors: names of the inputs that are stored tensors, or factors of the stacked form.
        smooth: whether it multiplies activations as they are where the original rounds them.
        stand_in: what is run to show that it agrees; None: itself.
    """

    file: str
    original: str
    predictions: bool
    model: onnx.ModelProto
    tensors: frozenset[str]
    smooth: bool
    stand_in: onnx.ModelProto | None = None


def input_graphs(exported: Exported, assembled: Assembled, manifest: Manifest) -> list[Counterpart]:
    """Return the counterparts of every graph that the manifest lists, in float32 or what tensors are stored as."""
    made: list[Counterpart] = []
    crossing: dict[str, onnx.ValueInfoProto] = {}
    for file, model in _originals(assembled, manifest):
        factors = manifest.factors if file == SUFFIX_FILE else ()
        for predictions in (False, True):
            found = _counterpart(exported, manifest, model, crossing, predictions=predictions)
            if found is None:
                continue
            name = counterpart(file, INPUTS, predictions=predictions)
            made.append(found._replace(file=name, original=file, tensors=found.tensors.union(factors)))
        if file in (PREFIX_FILE, ACTIVATIONS_FILE):
            declared = _declare_outputs(made[-1].model, file)
            crossing |= declared if file == PREFIX_FILE else {}
    return made


def _originals(assembled: Assembled, manifest: Manifest) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield (file, graph), what hands values over before what takes them."""
    yield LOSS_FILE, assembled.loss
    stages = assembled.stages
    if stages is not None and stages.prefix is not None and PREFIX_FILE in manifest.files:
        yield PREFIX_FILE, stages.prefix
    if stages is not None and SUFFIX_FILE in manifest.files:
        yield SUFFIX_FILE, stages.suffix
    if assembled.activations is not None:
        yield ACTIVATIONS_FILE, assembled.activations


def _counterpart(
    exported: Exported,
    manifest: Manifest,
    model: onnx.ModelProto,
    crossing: Mapping[str, onnx.ValueInfoProto],
    *,
    predictions: bool,
) -> Counterpart | None:
    """Return the graph, without files, and the stored tensors that it reads; None where predictions are none."""
    graph = Graph(model)
    chosen = predict_always(graph)
    if predictions and not chosen:
        return None
    outputs = [
        value
        for value in model.graph.output
        if predictions or not chosen or value.name != in_graph(PREDICTIONS)
    ]
    names = [value.name for value in outputs]
    smooth = multiply_floats(graph)
    stored = stored_inputs(graph, {row.name for row in manifest.parameters}, exported.weights)
    tensors = declared_tensors(graph, stored, names)
    inputs = [
        _named(value, crossing)
        for value in model.graph.input
        if value.name not in stored and value.name != in_graph(PREDICT)
    ]
    held = frozenset(value.name for value in tensors)
    return Counterpart("", "", predictions, graph.finish([*inputs, *tensors], outputs), held, smooth)


def _named(value: onnx.ValueInfoProto, crossing: Mapping[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    """Return a declaration all of whose axes have a size or a name."""
    if value.name in crossing:
        return crossing[value.name]
    port = port_of(value)
    return value if value.type.tensor_type.elem_type == TensorProto.BFLOAT16 else value_of(port)


def _declare_outputs(model: onnx.ModelProto, what: str) -> dict[str, onnx.ValueInfoProto]:
    """Declare the outputs of a graph with types and shapes, in place, and return them."""
    types, shapes = elem_types(model), _named_shapes(model, what)
    found = {}
    for value in model.graph.output:
        shape = shapes[value.name]
        declared = onnx.helper.make_tensor_value_info(value.name, types[value.name], shape)
        value.CopyFrom(declared)
        found[value.name] = declared
    return found


def _named_shapes(model: onnx.ModelProto, what: str) -> dict[str, list[int | str]]:
    """Return the shapes of a graph's outputs in the names of its inputs' axes, or products of two: "batch*sequence".

    An axis that is none of these is called "NAME_axisN". They are told from what they are for two sets of sizes.
    """
    names = sorted(_axes(model.graph.input))
    several = [dict(zip(names, sizes, strict=False)) for sizes in _SIZES]
    raw = model.SerializeToString()
    runs = [shapes_of_outputs(raw, what, sizes) for sizes in several]
    known = _products(names, several)
    shapes: dict[str, list[int | str]] = {}
    for name in runs[0]:
        axes = list(zip(*(run[name] for run in runs), strict=True))
        shapes[name] = [_axis(sizes, known, f"{name}_axis{index}") for index, sizes in enumerate(axes)]
    return shapes


def _axes(values: Collection[onnx.ValueInfoProto]) -> set[str]:
    ports = (port_of(value) for value in values)
    return {dim for port in ports for dim in port.shape if isinstance(dim, str)}


def _products(names: list[str], several: list[dict[str, int]]) -> dict[tuple[int, ...], str]:
    known = {tuple(sizes[name] for sizes in several): name for name in names}
    for index, first in enumerate(names):
        for second in names[index:]:
            sizes = tuple(each[first] * each[second] for each in several)
            known.setdefault(sizes, f"{first}*{second}")
    return known


def _axis(sizes: tuple[int | str | None, ...], known: Mapping[tuple[int, ...], str], name: str) -> int | str:
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        return name
    return fixed[0] if len(set(fixed)) == 1 else known.get(tuple(fixed), name)
