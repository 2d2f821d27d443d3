"""Makes the inputs of a text model token ids and a mask alone, int64, whatever its exporter added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoedge.errors import InputError

from ..surgery.graph import Graph, dims_of
from .samples import text_samples

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays

IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
TOKENS = (IDS, MASK, TYPES)
_PAST = "past_key_values"
_PRESENT = "present"
_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


@dataclass(frozen=True)
class TextInputs:
    """The inputs of a text model's file, as the file has them.

    Attributes:
        values: its inputs.
        ids: token ids to draw from in checks.
        pad_id: what stands on padding there.
        longest: most tokens of a check; None for no limit.
    """

    values: tuple[onnx.ValueInfoProto, ...]
    ids: tuple[int, ...]
    pad_id: int
    longest: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """Which of input_ids, attention_mask and token_type_ids a user's text fills."""
        held = {value.name for value in self.values}
        return tuple(name for name in TOKENS if name in held)

    def adapt(self, model: onnx.ModelProto) -> bool:
        """Change the graph, in place: int64 tokens, positions and empty caches made inside, no new caches.

        Returns:
            Whether the file had caches, which the graph now lacks.
        """
        graph = Graph(model)
        inputs = [value for value in graph.proto.input if value.name in graph.inputs]
        kept = [value for value in inputs if value.name in TOKENS]
        nodes: list[onnx.NodeProto] = []
        for value in inputs:
            readers = list(graph.consumers(value.name))
            if value.name in TOKENS:
                nodes += _as_int64(graph, value)
            elif readers and value.name == POSITIONS:
                nodes += _counted(graph, value)
            elif readers:
                nodes += _empty_cache(graph, value)
        outputs = [value for value in graph.proto.output if not value.name.startswith(_PRESENT)]
        cached = len(outputs) < len(graph.proto.output)
        del model.graph.node[:], model.graph.input[:], model.graph.output[:], model.graph.initializer[:]
        model.graph.node.extend([*nodes, *graph.nodes])
        model.graph.initializer.extend(graph.initializers.values())
        model.graph.input.extend(kept)
        model.graph.output.extend(outputs)
        return cached

    def fill(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Return what the file itself takes, from int64 tokens and mask."""
        batch, length = inputs[IDS].shape
        filled = {}
        for value in self.values:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            if value.name in TOKENS:
                filled[value.name] = inputs[value.name].astype(dtype)
            elif value.name == POSITIONS:
                filled[value.name] = np.tile(np.arange(length, dtype=dtype), (batch, 1))
            else:
                filled[value.name] = np.zeros((batch, *_cache_sizes(value)), dtype)
        return filled

    def sample(self, rng: np.random.Generator, batch: int, length: int) -> Arrays:
        """Return fresh tokens; sizes that the file fixes are kept."""
        value = next(value for value in self.values if value.name == IDS)
        rows, width = dims_of(value) or ("", "")
        draw = text_samples(self.ids, self.pad_id, self.names, self.longest)
        return draw(
            rng, rows if isinstance(rows, int) else batch, width if isinstance(width, int) else length
        )


def text_inputs(
    model: onnx.ModelProto, ids: tuple[int, ...], pad_id: int, longest: int | None, file: str
) -> TextInputs:
    """Return the inputs of a text model.

    Raises:
        InputError: it takes something that isn't made of a text alone.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = onnx.GraphProto(input=model.graph.input).input  # copies: the graph's own will change
    values = tuple(value for value in inputs if value.name not in held)
    for value in values:
        if value.name in TOKENS or value.name == POSITIONS:
            _check_tokens(value, file)
        elif not value.name.startswith(_PAST):
            raise InputError(
                f"{file} takes {value.name}, which no text fills: {_way_out(value.name)}, or give --task "
                "classification and arrays named like its inputs"
            )
        else:
            _cache_sizes(value)
    return TextInputs(values, ids, pad_id, longest)


def _way_out(name: str) -> str:
    if name == "use_cache_branch":
        return "take the decoder that was exported without a merged cache (decoder_model.onnx)"
    if name.startswith("encoder"):
        return "an encoder-decoder isn't supported, use an encoder or a decoder"
    return "export it with input_ids and attention_mask alone"


def _check_tokens(value: onnx.ValueInfoProto, file: str) -> None:
    dims = dims_of(value)
    if value.type.tensor_type.elem_type not in _INTEGERS or dims is None or len(dims) != 2:
        raise InputError(
            f"{value.name} of {file} isn't [batch, sequence] of integers: export it with such tokens"
        )


def _cache_sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the sizes of an empty cache behind the batch; the dynamic axis counts what is cached: nothing.

    Raises:
        InputError: more than one axis besides the batch is dynamic.
    """
    dims = (dims_of(value) or ())[1:]
    if sum(not isinstance(dim, int) for dim in dims) != 1:
        raise InputError(
            f"the cache {value.name} has the axes {list(dims)}, so an empty one can't be told: export the model "
            "without caches (optimum: --task text-generation)"
        )
    return tuple(dim if isinstance(dim, int) else 0 for dim in dims)


def _as_int64(graph: Graph, value: onnx.ValueInfoProto) -> list[onnx.NodeProto]:
    """Let tokens be int64 [batch, sequence], and the graph read them in its own type."""
    kind = value.type.tensor_type.elem_type
    for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "sequence"), strict=True):
        if not dim.HasField("dim_value"):
            dim.dim_param = name  # a mask's may be the sum of two
    if kind == TensorProto.INT64:
        return []
    value.type.tensor_type.elem_type = TensorProto.INT64
    own = graph.replace(value.name, f"model/{value.name}")
    return [helper.make_node("Cast", [value.name], [own], name=f"{own}/node", to=kind)]


def _counted(graph: Graph, value: onnx.ValueInfoProto) -> list[onnx.NodeProto]:
    """Make positions 0, 1, 2, ... of each row, as padding stands on the right."""
    own = graph.replace(value.name, f"model/{value.name}")
    shape, ones, ends, count = (graph.fresh(f"zoedge/positions/{part}") for part in ("a", "b", "c", "d"))
    one = numpy_helper.from_array(np.ones(1, np.int64))
    axis, step = graph.hold(np.int64(1), "axis"), graph.hold(np.int64(1), "step")
    return [
        helper.make_node("Shape", [IDS], [shape]),
        helper.make_node("ConstantOfShape", [shape], [ones], value=one),
        helper.make_node("CumSum", [ones, axis], [ends]),
        helper.make_node("Sub", [ends, step], [count]),
        helper.make_node("Cast", [count], [own], to=value.type.tensor_type.elem_type),
    ]


def _empty_cache(graph: Graph, value: onnx.ValueInfoProto) -> list[onnx.NodeProto]:
    own = graph.replace(value.name, f"model/{value.name}")
    shape, rows, whole = (graph.fresh(f"zoedge/{value.name}/{part}") for part in ("a", "b", "c"))
    first = graph.hold(np.zeros(1, np.int64), "first")
    sizes = graph.hold(np.array(_cache_sizes(value), np.int64), "sizes")
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    zero = numpy_helper.from_array(np.zeros(1, dtype))
    return [
        helper.make_node("Shape", [IDS], [shape]),
        helper.make_node("Gather", [shape, first], [rows]),
        helper.make_node("Concat", [rows, sizes], [whole], axis=0),
        helper.make_node("ConstantOfShape", [whole], [own], value=zero),
    ]
