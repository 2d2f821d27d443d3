"""Which stored tensors become inputs, and which constants of the graph."""

import numpy as np
from onnx import TensorProto

from tests.builders.models import INT64, model, node, normal, run, value
from zoedge.export.surgery.as_inputs import declared_tensors, stored_inputs
from zoedge.export.surgery.graph import Graph

WEIGHTS = {
    "w": normal((4, 4), 1),
    "half": normal((4, 4), 2).astype(np.float16),
    "table": normal(4, 3),
    "wide": normal((600, 500), 4),
    "ids": np.arange(4),
    "epsilon": np.float32(0.5),
    "levels": np.arange(16, dtype=np.int8).reshape(4, 4),
    "scale": np.full(4, 0.1, np.float32),
}
NODES = [
    node("MatMul", "x w", "a"),
    node("Cast", "half", "h", to=TensorProto.FLOAT),
    node("MatMul", "a h", "b"),
    node("Mul", "b table", "c"),
    node("Gather", "wide ids", "d", axis=1),
    node("Gather", "d ids", "e", axis=0),
    node("MatMul", "c e", "f"),
    node("Add", "f epsilon", "g"),
    node("DequantizeLinear", "levels scale", "q", axis=1),
    node("MatMul", "g q", "y"),
]


def test_parameters_rounded_matrices_and_large_tensors_are_inputs_and_the_rest_constants():
    proto = model(NODES, [value("x", ["n", 4])], [value("y", ["n", 4])], WEIGHTS, opset=20)
    graph = Graph(proto)
    for tensor in graph.initializers.values():
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    types = stored_inputs(graph, {"w"}, WEIGHTS)
    assert set(types) == {"w", "half", "wide", "levels", "scale"}
    given = declared_tensors(graph, types, ["y"])
    finished = graph.finish([*proto.graph.input, *given], list(proto.graph.output))
    assert {v.name: v.type.tensor_type.elem_type for v in given}["half"] == TensorProto.FLOAT16
    assert {t.name for t in finished.graph.initializer} == {"zoedge/table", "zoedge/ids", "zoedge/epsilon"}
    x = normal((3, 4), 5)
    got = run(finished, {"x": x, **{name: WEIGHTS[name] for name in types}})["y"]
    np.testing.assert_allclose(
        got, run(proto, {"x": x})["y"], rtol=1e-2
    )  # onnxruntime rounds x beside constants


def test_what_the_outputs_do_not_need_is_no_input():
    nodes = [node("Identity", "i", "y"), node("MatMul", "x w", "z")]
    inputs = [value("x", ["n", 4]), value("i", ["n"], INT64)]
    proto = model(nodes, inputs, [value("y", ["n"], INT64)], {"w": WEIGHTS["w"]})
    graph = Graph(proto)
    for tensor in graph.initializers.values():
        tensor.data_location = TensorProto.EXTERNAL
    assert declared_tensors(graph, stored_inputs(graph, {"w"}, WEIGHTS), ["y"]) == []
