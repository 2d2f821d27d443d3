"""What is counted: every float tensor that the loss depends on, with a reason where no run can train it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoedge
from tests.builders.models import convnet, mlp, model, node, normal, save, value
from zoedge.cli.summary import bundle_lines
from zoedge.export import to_bundle


def frozen(bundle):
    return {row.name: (row.size, row.reason) for row in bundle.manifest.frozen if row.size}


def line(bundle, name):
    return [text for text in bundle_lines(bundle) if text.startswith(name)]


def behind(kind, array):
    """x -> a product in another type -> a float32 layer."""
    nodes = [
        node("Cast", "x", "a", to=kind),
        node("MatMul", "a w", "b"),
        node("Cast", "b", "c", to=TensorProto.FLOAT),
        node("Gemm", "c head bias", "y"),
    ]
    tensors = {"w": array, "head": normal((4, 2), 1), "bias": normal(2, 2)}
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 2])], tensors)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_counted_and_named(tmp_path, dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = behind(kind, normal((4, 4), 3).astype(dtype))
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    name = np.dtype(dtype).name
    assert frozen(bundle) == {"w": (16, f"stored as {name}")}
    assert line(bundle, "trainable") == ["trainable  10 of 26 parameters (38.46 %) in 2 tensors"]
    assert line(bundle, "frozen") == [f"frozen     16 stored as {name} (w)"]


def test_statistics_are_counted_and_named(tmp_path):
    bundle = to_bundle(save(convnet(), tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert frozen(bundle) == dict.fromkeys(("bn.running_mean", "bn.running_var"), (6, "running statistics"))
    total = sum(numpy_helper.to_array(t).size for t in convnet().graph.initializer)
    assert (bundle.manifest.elements, bundle.manifest.trained_elements) == (total, total - 12)


def test_sparse_tensors_are_counted_and_named(tmp_path):
    proto = behind(TensorProto.FLOAT, normal((4, 4), 3))
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != "w"]
    held = onnx.GraphProto(initializer=kept)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(held.initializer)
    values = numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "w")
    places = numpy_helper.from_array(np.array([1, 5], np.int64), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 4]))
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert frozen(bundle) == {"w": (16, "stored as sparse tensors")}
    assert bundle.manifest.elements == 26


def test_tensors_of_functions_are_trained(tmp_path):
    held = [numpy_helper.from_array(normal((4, 4), 1), "w"), numpy_helper.from_array(normal(4, 2), "b")]
    inner = [
        helper.make_node("Constant", [], ["w"], value=held[0]),
        helper.make_node("Constant", [], ["b"], value_floats=normal(4, 2).tolist()),
        node("MatMul", "a w", "p"),
        node("Add", "p b", "c"),
    ]
    layer = helper.make_function("own", "Layer", ["a"], ["c"], inner, [helper.make_opsetid("", 18)])
    nodes = [helper.make_node("Layer", ["x"], ["h"], domain="own"), node("Gemm", "h head bias", "y")]
    proto = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 1])], {"head": normal((4, 1), 3), "bias": normal(1, 4)},
        domains=("own",),
    )  # fmt: skip
    proto.functions.append(layer)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert bundle.manifest.trained_elements == bundle.manifest.elements == 16 + 4 + 4 + 1
    assert sorted(p.group for p in bundle.manifest.trainable) == ["bias", "head", "head", "other"]


def test_what_the_loss_does_not_read_is_not_counted(tmp_path):
    proto = mlp()
    proto.graph.node.append(node("MatMul", "x unused", "z"))
    proto.graph.initializer.append(numpy_helper.from_array(normal((8, 50), 1), "unused"))
    proto.graph.output.append(value("z", ["n", 50]))
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",), output_name="y"
    )
    (row,) = (p for p in bundle.manifest.parameters if not p.live)
    assert (row.name, row.trainable) == ("unused", False)
    assert bundle.manifest.elements == bundle.manifest.trained_elements


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounding_changes_no_total(tmp_path, kind):
    source = save(mlp(), tmp_path / "m.onnx")
    plain, rounded = (
        to_bundle(source, tmp_path / name, loss="cross-entropy", quantize=name).manifest
        for name in ("none", kind)
    )
    scales = sum(row.size for row in rounded.frozen if row.name.endswith("_scale"))
    assert rounded.elements - scales == plain.elements


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("train", ["full", "bitfit", "head"])
@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
def test_a_bias_of_one_number(tmp_path, product, train, shape):
    """Its gradient is known: with weights of zero, the best bias is the mean of the targets."""
    nodes = (
        [node("Gemm", "x w b", "y")]
        if product == "Gemm"
        else [node("MatMul", "x w", "p"), node("Add", "b p", "y")]
    )
    tensors = {"w": np.zeros((3, 1), np.float32), "b": np.zeros(shape, np.float32)}
    proto = model(nodes, [value("x", ["n", 3])], [value("y", ["n", 1])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=(train,))
    rows = {p.name: p for p in bundle.manifest.parameters}
    assert {name for name, row in rows.items() if row.trainable} == {"b"} | (
        {"w"} if train != "bitfit" else set()
    )
    assert (rows["b"].decay, rows["w"].decay) == (False, True)
    x = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.full(32, 1.0, np.float32))
    options = zoedge.TuneOptions(steps=120, method="mezo", lr=0.03, batch_size=16, eval_every=0, threads=1)
    zoedge.tune(bundle.folder, tmp_path / "d.npz", tmp_path / "run", options)
    assert zoedge.evaluate(tmp_path / "run", tmp_path / "d.npz")["mse"] < 0.1


def test_settings_of_one_number_stand_apart_from_frozen_tensors(tmp_path):
    """All that can be trained is: a half beside it is no parameter that is left out."""
    nodes = [node("Mul", "x half", "a"), node("Gemm", "a head bias", "y")]
    tensors = {"half": np.float32(0.5).reshape(()), "head": normal((4, 2), 1), "bias": normal(2, 2)}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 2])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert line(bundle, "trainable") == ["trainable  10 of 10 parameters (100.00 %) in 2 tensors"]
    assert line(bundle, "frozen") == []
    assert line(bundle, "settings") == ["settings   1 of one number each, which are no parameters (half)"]


@pytest.mark.parametrize("switch", ["", "off"])
def test_the_share_that_nothing_drops_is_not_listed(tmp_path, switch):
    held = {"ratio": np.float32(0.3), "off": np.array(False)}
    nodes = [
        *(
            helper.make_node("Constant", [], [n], value=numpy_helper.from_array(np.asarray(a)))
            for n, a in held.items()
        ),
        node("MatMul", "x w", "h"),
        helper.make_node("Dropout", ["h", "ratio", switch], ["y"]),
    ]
    tensors = {"w": normal((4, 2), 1)}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 2])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert bundle.manifest.frozen == ()


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_a_rounded_bias_counts_as_its_matrix_does(tmp_path, kind):
    nodes = [
        node("DequantizeLinear", "w ws", "wd"),
        node("DequantizeLinear", "b bs", "bd"),
        node("Gemm", "x wd bd", "h"),
        node("Gemm", "h head bias", "y"),
    ]
    codes = np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(kind)
    scales = {"ws": np.float32(0.01), "bs": np.float32(0.001)}
    tensors = {
        "w": codes,
        "b": np.array([5, -900, 70, 2], np.int32),
        "head": normal((4, 2), 1),
        "bias": normal(2, 2),
    }
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 2])], tensors, opset=21, ir_version=10)
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(a), name) for name, a in scales.items())
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("head",))
    listed = frozen(bundle)
    assert listed["w"] == (16, f"stored as {np.dtype(kind)}")
    assert listed["b"] == (4, "stored as int32")
    assert bundle.manifest.elements - bundle.manifest.trained_elements == 16 + 4 + sum(
        size for name, (size, _) in listed.items() if name in scales
    )
