"""Transformations of graphs, run by onnxruntime and compared with the untouched graph or NumPy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.models import (
    INT64,
    convnet,
    language_model,
    mlp,
    mlp_numpy,
    mlp_tensors,
    model,
    node,
    normal,
    run,
    value,
)
from zoedge.export.surgery.features import find_features
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.label_words import keep_label_words
from zoedge.export.surgery.positions import gather_positions

IDS = np.array([[1, 2, 3, 4, 5, 6], [10, 9, 8, 7, 0, 0]])
POSITIONS = np.array([[5, 0, 2], [3, 3, 1]])


def at_positions(proto, *, words=()):
    graph = Graph(proto)
    logits = gather_positions(graph, "logits", "label_positions")
    if words:
        logits = keep_label_words(graph, logits, words)
    inputs = [*proto.graph.input, value("label_positions", [2, "p"], INT64)]
    return graph.finish(inputs, [value(logits, None)]), logits


@pytest.mark.parametrize(("cap", "head"), [(False, "tied"), (True, "tied"), (False, "reshaped")])
def test_logits_at_label_positions_are_those_of_the_whole_sequence(cap, head):
    proto = language_model(cap=cap, head=head)
    whole = run(proto, {"input_ids": IDS})["logits"]
    small, name = at_positions(proto)
    got = run(small, {"input_ids": IDS, "label_positions": POSITIONS})[name]
    np.testing.assert_allclose(got, np.take_along_axis(whole, POSITIONS[:, :, None], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cap", [False, True])
def test_the_vocabulary_head_multiplies_label_positions_only(cap):
    small, _ = at_positions(language_model(cap=cap))
    shapes = onnx.shape_inference.infer_shapes(small).graph.value_info
    product = next(v for v in shapes if v.name == "p").type.tensor_type.shape
    assert [dim.dim_param for dim in product.dim][1] == "p", "as many rows as the input label_positions"


@pytest.mark.parametrize(("cap", "head"), [(False, "tied"), (True, "tied"), (False, "reshaped")])
def test_label_words_are_columns_of_the_logits(cap, head):
    proto = language_model(cap=cap, head=head)
    whole = run(proto, {"input_ids": IDS})["logits"]
    small, name = at_positions(proto, words=(7, 2, 9))
    got = run(small, {"input_ids": IDS, "label_positions": np.array([[5], [3]])})[name]
    np.testing.assert_allclose(got, np.stack([whole[0, 5], whole[1, 3]])[:, [7, 2, 9]], rtol=1e-5, atol=1e-6)


def test_label_words_leave_no_vocabulary_wide_product():
    small, _ = at_positions(language_model(), words=(7, 2, 9))
    shapes = onnx.shape_inference.infer_shapes(small).graph.value_info
    product = next(v for v in shapes if v.name == "p")
    assert product.type.tensor_type.shape.dim[2].dim_value == 3


@pytest.mark.parametrize("words", [(7, 2)])
def test_label_words_where_the_matrix_is_stored_as_in_out(words):
    tensors = {"w": normal((4, 9), 1), "b": normal(9, 2)}
    nodes = [node("MatMul", "hidden w", "p"), node("Add", "p b", "logits")]
    proto = model(nodes, [value("hidden", [2, "s", 4])], [value("logits", [2, "s", 9])], tensors)
    hidden = normal((2, 5, 4), 3)
    small, name = at_positions(proto, words=words)
    got = run(small, {"hidden": hidden, "label_positions": np.array([[4], [0]])})[name]
    wanted = (hidden @ tensors["w"] + tensors["b"])[[0, 1], [4, 0]][:, list(words)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_features_of_a_gemm():
    head, name, width = find_features(Graph(mlp()), "y")
    assert (head.weight, head.bias, head.transposed, width) == (
        "classifier.weight",
        "classifier.bias",
        False,
        12,
    )
    graph = Graph(mlp())
    x = normal((5, 8), 0)
    got = run(graph.finish([value("x", ["n", 8])], [value(name, None)]), {"x": x})[name]
    np.testing.assert_allclose(got, mlp_numpy(mlp_tensors(), x)[1], rtol=1e-4, atol=1e-5)


def test_features_of_a_matmul_and_an_add_with_the_matrix_as_stored():
    tensors = {"w": normal((4, 3), 1), "b": normal((1, 3), 2)}
    nodes = [
        node("Flatten", "x", "f"),
        node("MatMul", "f w", "p"),
        node("Identity", "p", "i"),
        node("Add", "b i", "y"),
    ]
    proto = model(nodes, [value("x", ["n", 2, 2])], [value("y", ["n", 3])], tensors)
    head, name, width = find_features(Graph(proto), "y")
    assert (head.weight, head.bias, head.transposed, name, width) == ("w", "b", True, "f", 4)


@pytest.mark.parametrize(
    "tail",
    [
        [node("Tanh", "p", "y")],
        [node("Mul", "p b", "y")],
        [node("Add", "p b", "q"), node("Add", "q b", "y")],
        [node("Mul", "p p", "y")],
    ],
)
def test_no_features_where_more_than_a_bias_follows(tail):
    tensors = {"w": normal((4, 3), 1), "b": normal(3, 2)}
    proto = model(
        [node("MatMul", "x w", "p"), *tail], [value("x", ["n", 4])], [value("y", ["n", 3])], tensors
    )
    assert find_features(Graph(proto), "y") is None


def test_no_features_without_a_linear_layer():
    assert find_features(Graph(convnet(head=False)), "logits") is None


def test_finish_orders_nodes_and_drops_what_the_outputs_do_not_need():
    graph = Graph(mlp())
    late = graph.add("Neg", "x")
    gemm = next(n for n in graph.nodes if n.op_type == "Gemm")
    graph.set_input(gemm, 0, late)
    proto = graph.finish([value("x", ["n", 8])], [value("c", ["n", 16])])
    onnx.checker.check_model(proto)
    assert [n.op_type for n in proto.graph.node] == ["Neg", "Gemm", "Relu", "LayerNormalization"]
    assert {t.name for t in proto.graph.initializer} == {n for n in mlp_tensors() if n.startswith("blocks.0")}


def test_values_that_a_subgraph_reads_are_kept_and_renamed():
    def branch(op):
        return helper.make_graph([node(op, "kept", "out")], op, [], [value("out", ["n", 4])])

    nodes = [
        node("Add", "x b", "kept"),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs")),
    ]
    inputs = [value("x", ["n", 4]), value("flag", [], TensorProto.BOOL)]
    graph = Graph(model(nodes, inputs, [value("y", ["n", 4])], {"b": normal(4, 1)}))
    assert "b" in graph.reaching(["y"])
    graph.rename("kept", "renamed")
    proto = graph.finish(inputs, [value("y", ["n", 4])])
    x = normal((2, 4), 2)
    np.testing.assert_allclose(
        run(proto, {"x": x, "flag": np.array(True)})["y"], -(x + normal(4, 1)), rtol=1e-6
    )


def test_the_source_model_is_never_changed():
    proto = language_model()
    before = proto.SerializeToString(deterministic=True)
    at_positions(proto, words=(1, 2))
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("form", ["initializer", "node", "floats"])
def test_constants_are_read_in_every_form(form):
    array = np.array([1.5, 2.5], np.float32)
    tensors, nodes = {}, [node("Add", "x c", "y")]
    if form == "initializer":
        tensors = {"c": array}
    elif form == "node":
        nodes.insert(0, node("Constant", "", "c", value=numpy_helper.from_array(array)))
    else:
        nodes.insert(0, node("Constant", "", "c", value_floats=[1.5, 2.5]))
    graph = Graph(model(nodes, [value("x", [2])], [value("y", [2])], tensors))
    np.testing.assert_array_equal(graph.constant("c"), array)
    assert graph.shape("c") == (2,)
    assert graph.constant("x") is None
