"""The element type of every value of a graph, also behind operators that onnx has no schema for."""

from __future__ import annotations

from functools import cache

import onnx
from onnx import TensorProto

from .graph import Graph

_INTEGERS = {("EmbedLayerNormalization", 1): int(TensorProto.INT32)}  # by operator and place of the output
# operators of onnxruntime's own that compute in float32 alone
_FLOAT32 = frozenset(("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QEmbedLayerNormalization", "QGemm"))
_QUANTISED = ("QLinear", "QGemm", "QuantizeLinear")
_QGEMM_ROUNDS = 8  # inputs, of which the last two round the result
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def value_types(graph: Graph, model: onnx.ModelProto) -> dict[str, int]:
    """Return value -> ONNX element type.

    Args:
        graph: of the model, only read.
        model: finished.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {v.name: int(v.type.tensor_type.elem_type) for v in values if v.type.tensor_type.elem_type}
    types |= {name: int(tensor.data_type) for name, tensor in graph.initializers.items()}
    for node in graph.in_order():
        read = [types[value] for value in node.input if types.get(value) in FLOATS]
        for place, output in enumerate(
            node.output
        ):  # operators of onnxruntime's own keep the type of what they read
            kind = _kind(node, place) or (read[0] if read else int(TensorProto.FLOAT))
            if output:
                types.setdefault(output, kind)
    return types


def _kind(node: onnx.NodeProto, place: int) -> int:
    """Return the type of an output of onnxruntime's own operators that make integers; 0 for others."""
    if node.op_type.startswith(_QUANTISED) and not (
        node.op_type == "QGemm" and len(node.input) < _QGEMM_ROUNDS
    ):
        return int(TensorProto.INT8)  # or unsigned: no float
    return _INTEGERS.get((node.op_type, place), 0)


class FixedFloats:
    """Which inputs and outputs of operators are float32 in any case, by their schemas."""

    def __init__(self, graph: Graph) -> None:
        self._versions = {o.domain: o.version for o in graph.imports}

    def inputs(self, node: onnx.NodeProto) -> frozenset[int]:
        """Return the places of a node's inputs that may be float32 and not float16."""
        return self._places(node, outputs=False)

    def outputs(self, node: onnx.NodeProto) -> frozenset[int]:
        """Return the places of a node's outputs that may be float32 and not float16."""
        return self._places(node, outputs=True)

    def _places(self, node: onnx.NodeProto, *, outputs: bool) -> frozenset[int]:
        version = self._versions.get(node.domain, 0)
        found = _allowed(node.op_type, version, node.domain, outputs=outputs)
        count = len(node.output) if outputs else len(node.input)
        if not found:
            return frozenset(range(count) if node.op_type in _FLOAT32 else ())
        kinds = [found[min(place, len(found) - 1)] for place in range(count)]  # the last one may be repeated
        return frozenset(
            place
            for place, kind in enumerate(kinds)
            if "tensor(float)" in kind and "tensor(float16)" not in kind
        )


@cache
def _allowed(op: str, version: int, domain: str, *, outputs: bool) -> tuple[frozenset[str], ...]:
    """Return the types that each formal input or output may have; () for operators without a schema."""
    if not onnx.defs.has(op, domain):
        return ()
    schema = onnx.defs.get_schema(op, version, domain)
    return tuple(frozenset(formal.types) for formal in (schema.outputs if outputs else schema.inputs))
