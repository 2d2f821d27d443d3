"""Frequencies that turn positions into sines and cosines are no weights; what a sine activates has some."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.roles import is_frequencies, is_parameter, why_frozen


def graph_of(nodes, inputs, tensors):
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()],
    )  # fmt: skip
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


ENDS = [
    helper.make_node("Concat", ["f", "f"], ["e"], axis=-1),
    helper.make_node("Cos", ["e"], ["c"]),
    helper.make_node("Sin", ["e"], ["s"]),
    helper.make_node("Add", ["c", "s"], ["y"]),
]


def test_the_frequencies_of_positions_are_found_behind_an_expand():
    positions = helper.make_tensor_value_info("p", TensorProto.INT64, ["b", 1, "t"])
    nodes = [
        helper.make_node("Shape", ["w"], ["shape"]),
        helper.make_node("Expand", ["w", "shape"], ["wide"]),
        helper.make_node("Cast", ["p"], ["pf"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "pf"], ["q"]),
        helper.make_node("Transpose", ["q"], ["f"], perm=[0, 2, 1]),
        *ENDS,
    ]
    graph = graph_of(nodes, [positions], {"w": [[[1.0], [0.1], [0.01]]]})
    assert is_frequencies(graph, "w")
    assert not is_parameter(graph, "w")
    assert why_frozen(graph, "w") == "tables and masks"


def test_a_sine_of_features_is_an_activation():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["f"]), *ENDS]
    for weight in (np.ones((4, 3)), np.ones((4, 1))):
        graph = graph_of(nodes, [x], {"w": weight})
        assert not is_frequencies(graph, "w")
        assert is_parameter(graph, "w")
