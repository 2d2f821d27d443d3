"""Rows of the last layer that nothing reads are not computed, and the others come out the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.builders.models import INT64, model, node, normal, run, value
from tests.builders.tiny import tiny_gpt2, tiny_llama, tiny_opt
from zoedge.export.surgery import early_rows, positions
from zoedge.export.surgery.early_rows import Rows, take_early
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.quantize import find_quantizable, quantize_linears
from zoedge.export.to_bundle import to_bundle

WIDTH = 8
POSITIONS = np.array([[4, 0], [2, 2], [1, 3]])
SEQUENCE = np.random.default_rng(0).standard_normal((3, 5, WIDTH)).astype(np.float32)
TENSORS = {
    "w": normal((WIDTH, WIDTH), 1),
    "up": normal((16, WIDTH), 2),
    "down": normal((WIDTH, 16), 3),
    "bias": normal(WIDTH, 4),
    "gain": 1 + normal(WIDTH, 5),
    "flat": np.array([-1, WIDTH]),
    "by_position": normal((5, WIDTH), 6),
}


def network(*nodes, output="y"):
    """A model with the input x [batch, sequence, WIDTH]."""
    given = [node(*each.split(" | ")) if isinstance(each, str) else each for each in nodes]
    used = {name for each in given for name in each.input}
    tensors = {name: array for name, array in TENSORS.items() if name in used}
    inputs, outputs = [value("x", ["batch", "sequence", WIDTH])], [value(output, None)]
    return model(given, inputs, outputs, tensors, domains=["com.microsoft"])


def early(proto, *, output="y"):
    """Return the model that computes some rows of ``output``, and its nodes by their output."""
    graph = Graph(proto)
    indices = graph.unsqueeze("positions", -1)
    rows = Rows(
        take=lambda each: graph.add("GatherND", each, indices, batch_dims=1),
        shape=lambda: graph.add("Shape", "positions"),
    )
    taken = take_early(graph, output, rows)
    inputs = [*proto.graph.input, value("positions", ["batch", "k"], INT64)]
    small = graph.finish(inputs, [value(taken, None)])
    return small, {out: each for each in small.graph.node for out in each.output}


def taken_from(nodes):
    return {each.input[0] for each in nodes.values() if each.op_type == "GatherND"}


def check_rows(proto):
    """Compare with the same rows of the whole, and return the values from which rows are taken."""
    whole = run(proto, {"x": SEQUENCE})["y"]
    small, nodes = early(proto)
    got = run(small, {"x": SEQUENCE, "positions": POSITIONS})[small.graph.output[0].name]
    wanted = np.take_along_axis(whole, POSITIONS[:, :, None], 1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    return taken_from(nodes)


def block(*, back="x"):
    """A feed-forward layer on rows of [batch x sequence, WIDTH], as torch exports OPT's; ends as h."""
    return [
        "Reshape | x flat | rows",
        "LayerNormalization | rows gain bias | normed",
        node("Gemm", "normed up", "wide", transB=1),
        "Relu | wide | active",
        node("Gemm", "active down bias", "narrow", transB=1),
        "Add | rows narrow | sum",
        f"Shape | {back} | shape",
        "Reshape | sum shape | h",
    ]


def test_a_feed_forward_layer_sees_the_wanted_rows_only():
    assert check_rows(network(*block(), "MatMul | h w | y")) == {"x"}


def test_residual_sums_and_gates_are_computed_for_the_wanted_rows():
    nodes = [
        "MatMul | x w | a",
        "Sigmoid | a | s",
        "Mul | a s | gated",
        "Add | gated x | r",
        "Add | r bias | y",
    ]
    assert check_rows(network(*nodes)) == {"x"}


def test_a_norm_written_out_is_computed_for_the_wanted_rows():
    mean = helper.make_node("ReduceMean", ["square", "last"], ["mean"], keepdims=1)
    last = helper.make_node("Constant", [], ["last"], value_ints=[-1])
    nodes = [
        "Mul | x x | square",
        last,
        mean,
        "Sqrt | mean | root",
        "Div | x root | unit",
        "Mul | unit gain | y",
    ]
    assert check_rows(network(*nodes)) == {"x"}


def test_nothing_moves_beyond_what_mixes_positions():
    softmax = node("Softmax", "a", "mixed", axis=1)
    assert check_rows(network("MatMul | x w | a", softmax, "MatMul | mixed w | y")) == {"mixed"}


def test_a_value_that_others_read_is_computed_whole():
    nodes = ["MatMul | x w | a", "Relu | a | b", node("Softmax", "b", "mixed", axis=1), "Add | b mixed | y"]
    assert check_rows(network(*nodes)) == {"b", "mixed"}


def test_what_differs_from_position_to_position_is_added_to_all():
    assert check_rows(network("MatMul | x w | a", "Add | a by_position | b", "Relu | b | y")) == {"b"}


def test_rows_are_taken_where_the_sequence_is_an_axis_of_its_own():
    """What mixes rows lies below the Reshape that brings the axis back, so rows are taken above it."""
    nodes = [
        "Reshape | x flat | rows",
        node("Softmax", "rows", "mixed", axis=0),
        node("Gemm", "mixed w", "product"),
        "Shape | x | shape",
        "Reshape | product shape | h",
        "Relu | h | y",
    ]
    assert check_rows(network(*nodes)) == {"h"}


@pytest.mark.parametrize(
    ("starts", "axes", "taken"), [("zero", "", "x"), ("zero", " last", "x"), ("one", " one", "cut")]
)
def test_a_slice_that_leaves_everything_is_passed(starts, axes, taken):
    """Its axes are optional."""
    held = {"zero": [0], "one": [1], "end": [2**62], "last": [2]}
    constants = [helper.make_node("Constant", [], [name], value_ints=value) for name, value in held.items()]
    _, made = early(network(*constants, f"Slice | x {starts} end{axes} | cut", "Relu | cut | y"))
    assert taken_from(made) == {taken}


def test_integer_layers_see_the_wanted_rows_only():
    proto = network(*block(), "MatMul | h w | y")
    for tensor in proto.graph.initializer:
        if tensor.name in ("w", "up", "down"):
            tensor.data_location = TensorProto.EXTERNAL
    graph = Graph(proto)
    targets = find_quantizable(graph)
    weights = {name: TENSORS[name] for name in targets}
    assert sorted(weights) == ["down", "up", "w"]
    tensors, _ = quantize_linears(graph, targets, weights, "int8")
    integer = graph.finish(list(proto.graph.input), list(proto.graph.output))
    small, nodes = early(integer)
    assert taken_from(nodes) == {"x"}
    for each in (integer, small):
        for tensor in each.graph.initializer:
            if tensor.name in tensors:
                tensor.CopyFrom(onnx.numpy_helper.from_array(tensors[tensor.name], tensor.name))
    whole = run(integer, {"x": SEQUENCE})["y"]
    got = run(small, {"x": SEQUENCE, "positions": POSITIONS})["y"]
    wanted = np.take_along_axis(whole, POSITIONS[:, :, None], 1)
    assert np.abs(got - wanted).max() < 0.05 * np.abs(whole).max()  # other rows, other steps of rounding


def test_a_rounded_activation_that_others_read_is_not_cut():
    """Rows of a rounded activation can't be taken, so the product behind it is computed whole."""
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    product = helper.make_node(
        "MatMulIntegerToFloat", ["q", "w8", "s", "ws", "z"], ["y"], domain="com.microsoft"
    )
    other = node("Cast", "q", "kept", to=TensorProto.FLOAT)
    proto = model(
        [quantize, product, other],
        [value("x", ["batch", "sequence", WIDTH])],
        [value("y", None)],
        {"w8": np.ones((WIDTH, WIDTH), np.int8), "ws": np.ones(WIDTH, np.float32)},
        domains=["com.microsoft"],
    )
    _, nodes = early(proto)
    assert taken_from(nodes) == {"y"}


def test_where_fewer_rows_give_other_results_the_layer_is_computed_whole(tmp_path, monkeypatch):
    """As where a value [batch, 1, width] is added to the rows, which shapes that nobody can infer don't tell."""
    source = tiny_opt(tmp_path / "m")
    first = early_rows.take_early

    def wrong(graph, value, rows):
        return graph.add("Mul", first(graph, value, rows), graph.hold(np.float32(1.5), "wrong"))

    monkeypatch.setattr(positions, "take_early", wrong)
    bundle = to_bundle(source, tmp_path / "b", task="text-generation")
    graph = Graph(onnx.load(bundle.path("loss.onnx"), load_external_data=False))
    (rows,) = (each.input[0] for each in graph.nodes if each.op_type == "GatherND")
    assert graph.producer(rows).op_type == "LayerNormalization"


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("tiny", [tiny_opt, tiny_llama, tiny_gpt2], ids=["opt", "llama", "gpt2"])
def test_the_last_layer_of_a_decoder_runs_at_label_positions_only(tmp_path, tiny, quantize):
    bundle = to_bundle(tiny(tmp_path / "m"), tmp_path / "b", task="text-generation", quantize=quantize)
    graph = Graph(onnx.load(bundle.path("loss.onnx"), load_external_data=False))
    gathers = [each for each in graph.nodes if each.op_type == "GatherND" and "zoedge" in each.input[1]]
    rows = [each.input[0] for each in gathers]
    makers = {graph.producer(each).op_type for each in rows}
    assert len(rows) == 2, "what attention made and the residual"
    assert "Reshape" in makers, "rows are taken before the output projection of the last attention"
    assert makers <= {"Reshape", "Add"}
