"""Which parts of a graph stay in float32 when the rest becomes float16, and that what is rounded is what runs."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from tests.builders.models import INT64, model, node, normal, value
from zoedge.export.surgery.half import to_half
from zoedge.export.surgery.rounded import rounding_each
from zoedge.names import in_graph

WIDTH = 8


def graph(nodes, inputs, outputs, tensors, **constants):
    """Return a model whose ``tensors`` are inputs, and its float16 form."""
    given = [value(name, list(array.shape)) for name, array in tensors.items()]
    proto = model(nodes, [*inputs, *given], outputs, constants, opset=20)
    half = to_half(proto, list(tensors))
    onnx.checker.check_model(half, full_check=True)
    return proto, half


def run(proto, feeds):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    given = {
        i.name: feeds[i.name].astype(kinds.get(i.type, feeds[i.name].dtype)) for i in session.get_inputs()
    }
    return session.run(None, given)[0]


def types(half):
    """Return op -> the element types that it makes, in order."""
    inferred = onnx.shape_inference.infer_shapes(half).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    found = {}
    for each in half.graph.node:
        found.setdefault(each.op_type, []).append(TensorProto.DataType.Name(known[each.output[0]]))
    return found


def rounded(proto, half):
    return rounding_each(half, {v.name: v.type.tensor_type.elem_type for v in proto.graph.input})


@pytest.mark.parametrize("square", [node("Pow", "h two", "q"), node("Mul", "h h", "q")])
def test_the_middle_of_a_root_mean_square_norm_stays_float32(square):
    nodes = [
        node("MatMul", "x w", "h"), square, node("ReduceMean", "q axes", "m", keepdims=1), node("Add", "m eps", "n"),
        node("Sqrt", "n", "s"), node("Reciprocal", "s", "r"), node("Mul", "h r", "k"), node("Mul", "k g", "o"),
        node("MatMul", "o u", "y"),
    ]  # fmt: skip
    tensors = {
        "w": 100 * normal((WIDTH, WIDTH), 1),
        "g": 1 + normal(WIDTH, 2),
        "u": normal((WIDTH, WIDTH), 3),
    }
    small = {"two": np.float32(2), "axes": np.array([-1], np.int64), "eps": np.float32(1e-12)}
    proto, half = graph(nodes, [value("x", ["n", WIDTH])], [value("y", ["n", "m"])], tensors, **small)
    found = types(half)
    for op in ("ReduceMean", "Sqrt", "Reciprocal"):
        assert found[op] == ["FLOAT"]
    assert found["MatMul"] == ["FLOAT16", "FLOAT16"]
    assert found["Mul"][-2:] == ["FLOAT", "FLOAT16"]  # normalised, and scaled by a weight
    x = 20 * normal((4, WIDTH), 4)
    assert np.abs(x @ tensors["w"]).max() > 256  # whose squares float16 doesn't hold
    wanted = run(proto, {"x": x, **tensors})
    got = run(rounded(proto, half), {"x": x, **tensors})
    np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=2e-2)


def test_a_mask_of_huge_numbers_stays_finite_where_it_is_added_twice():
    nodes = [
        node("Cast", "mask", "c", to=TensorProto.FLOAT), node("Sub", "one c", "i"), node("Mul", "i low", "b"),
        node("MatMul", "x w", "s"), node("Add", "s b", "t"), node("Add", "t b", "v"),
        node("Softmax", "v", "y", axis=-1),
    ]  # fmt: skip
    tensors = {"w": normal((WIDTH, WIDTH), 1)}
    constants = {"one": np.float32(1), "low": np.float32(np.finfo(np.float32).min / 4)}
    inputs = [value("x", ["n", WIDTH]), value("mask", ["n", WIDTH], INT64)]
    proto, half = graph(nodes, inputs, [value("y", ["n", "m"])], tensors, **constants)
    mask = np.ones((3, WIDTH), np.int64)
    mask[1, 3:] = 0
    mask[2] = 0  # a row without anything
    feeds = {"x": normal((3, WIDTH), 2), "mask": mask, **tensors}
    got = run(rounded(proto, half), feeds)
    assert np.isfinite(got).all()
    assert (got[1, 3:] == 0).all()
    np.testing.assert_allclose(got[:2], run(proto, feeds)[:2], atol=1e-2)
    np.testing.assert_allclose(got[2].sum(), 1.0, atol=1e-2)


def test_rotary_angles_are_computed_in_float32():
    nodes = [
        node("Cast", "positions", "p", to=TensorProto.FLOAT), node("MatMul", "p frequencies", "f"),
        node("Cos", "f", "c"), node("MatMul", "x w", "q"), node("Mul", "q c", "y"),
    ]  # fmt: skip
    tensors = {"w": normal((WIDTH, WIDTH), 1)}
    inputs = [value("x", ["n", WIDTH]), value("positions", ["n", 1], INT64)]
    frequencies = {"frequencies": np.linspace(0.3, 0.9, WIDTH, dtype=np.float32)[None]}
    proto, half = graph(nodes, inputs, [value("y", ["n", "m"])], tensors, **frequencies)
    assert types(half)["MatMul"] == ["FLOAT", "FLOAT16"]
    assert types(half)["Mul"] == ["FLOAT16"]
    feeds = {"x": normal((3, WIDTH), 2), "positions": np.array([[3], [2049], [4095]]), **tensors}
    np.testing.assert_allclose(run(rounded(proto, half), feeds), run(proto, feeds), atol=1e-2)


def test_large_frequencies_are_no_mask():
    """What is larger than float16 holds is bounded where it becomes float16, and not before."""
    nodes = [
        node("Cast", "positions", "p", to=TensorProto.FLOAT), node("Div", "p base", "f"), node("Sin", "f", "c"),
        node("Mul", "c g", "y"),
    ]  # fmt: skip
    inputs = [value("positions", ["n", 1], INT64)]
    tensors = {"g": normal(WIDTH, 1)}
    proto, half = graph(nodes, inputs, [value("y", ["n", "m"])], tensors, base=np.float32(500000))
    feeds = {"positions": np.array([[100000], [400000]]), **tensors}
    np.testing.assert_allclose(run(rounded(proto, half), feeds), run(proto, feeds), atol=1e-3)


def test_the_loss_is_float32_from_the_logits_on():
    labels = in_graph("labels")
    nodes = [
        node("MatMul", "x w", "l"), node("Abs", "l", "a"), node("Neg", "a", "n"), node("Softplus", "n", "r"),
        node("Mul", f"l {labels}", "t"), node("Sub", "r t", "y"),
    ]  # fmt: skip
    inputs = [value("x", ["n", WIDTH]), value(labels, ["n", 3])]
    _, half = graph(nodes, inputs, [value("y", ["n", "m"])], {"w": normal((WIDTH, 3), 1)})
    found = types(half)
    assert found["MatMul"] == ["FLOAT16"]
    assert {kind for op in ("Abs", "Neg", "Softplus", "Mul", "Sub") for kind in found[op]} == {"FLOAT"}
    assert {v.name: v.type.tensor_type.elem_type for v in half.graph.input} == {
        "x": TensorProto.FLOAT, labels: TensorProto.FLOAT, "w": TensorProto.FLOAT16,
    }  # fmt: skip


def test_what_a_float16_source_casts_up_and_back_is_not_cast_again():
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16), node("MatMul", "h w", "s"),
        node("Cast", "s", "u", to=TensorProto.FLOAT), node("Softmax", "u", "p", axis=-1),
        node("Cast", "p", "d", to=TensorProto.FLOAT16), node("MatMul", "d w", "o"),
        node("Cast", "o", "y", to=TensorProto.FLOAT),
    ]  # fmt: skip
    given = [value("x", ["n", WIDTH]), value("w", [WIDTH, WIDTH], TensorProto.FLOAT16)]
    proto = model(nodes, given, [value("y", ["n", "m"])], {}, opset=20)
    half = to_half(proto, ["w"])
    onnx.checker.check_model(half, full_check=True)
    feeds = {"x": normal((3, WIDTH), 1), "w": normal((WIDTH, WIDTH), 2).astype(np.float16)}
    np.testing.assert_allclose(run(half, feeds), run(proto, feeds), atol=1e-2)


def test_a_cast_of_float32_to_itself_is_no_step():
    nodes = [
        node("MatMul", "x w", "h"), node("Cast", "h", "c", to=TensorProto.FLOAT),
        node("ReduceMean", "c axes", "m", keepdims=1), node("Sub", "c m", "d"), node("MatMul", "d w", "y"),
    ]  # fmt: skip
    tensors = {"w": normal((WIDTH, WIDTH), 1)}
    axes = {"axes": np.array([-1], np.int64)}
    proto, half = graph(nodes, [value("x", ["n", WIDTH])], [value("y", ["n", "m"])], tensors, **axes)
    assert types(half)["Sub"] == ["FLOAT"]
    feeds = {"x": normal((3, WIDTH), 2), **tensors}
    np.testing.assert_allclose(run(half, feeds), run(proto, feeds), atol=1e-2)


def test_bfloat16_tensors_become_float16():
    nodes = [node("Cast", "w", "f", to=TensorProto.FLOAT), node("MatMul", "x f", "y")]
    given = [value("x", ["n", WIDTH]), value("w", [WIDTH, WIDTH], TensorProto.BFLOAT16)]
    half = to_half(model(nodes, given, [value("y", ["n", "m"])], {}, opset=20), ["w"])
    assert half.graph.input[1].type.tensor_type.elem_type == TensorProto.FLOAT16
    x, w = normal((3, WIDTH), 1), normal((WIDTH, WIDTH), 2)
    np.testing.assert_allclose(run(half, {"x": x, "w": w}), x @ w, atol=1e-2)


def test_what_is_rounded_overflows_as_float16_does():
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h w", "y")]
    proto, half = graph(
        nodes, [value("x", ["n", 1])], [value("y", ["n", "m"])], {"w": np.full((1, 1), 300, np.float32)}
    )
    assert np.isinf(
        run(rounded(proto, half), {"x": np.ones((1, 1), np.float32), "w": np.full((1, 1), 300.0)})
    )
