"""ONNX files as a source: where their tensors lie, what becomes of their weights, and what is refused."""

import mmap

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

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
    save,
    value,
)
from zoedge.errors import InputError
from zoedge.export.sources.onnx_file import from_onnx
from zoedge.export.sources.onnx_tensors import read_tensors
from zoedge.export.sources.onnx_wire import read_skeleton


def read(path):
    skeleton = read_skeleton(path)
    return skeleton, read_tensors(path, skeleton)


def base_of(array):
    while isinstance(getattr(array, "base", None), np.ndarray):
        array = array.base
    return array.base.obj if isinstance(array.base, memoryview) else array.base


@pytest.mark.parametrize("external", [False, True, "one file each"])
def test_weights_are_views_of_files_and_never_read(tmp_path, external):
    options = {}
    if external:
        options = {
            "save_as_external_data": True,
            "size_threshold": 0,
            "all_tensors_to_one_file": external is True,
        }
    path = save(convnet(), tmp_path / "m.onnx", **options)
    skeleton, arrays = read(path)
    original = {t.name: numpy_helper.to_array(t) for t in convnet().graph.initializer}
    assert arrays.keys() == original.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, original[name])
        if array.nbytes > 64 or external:
            assert isinstance(base_of(array), np.memmap | mmap.mmap), name
    assert skeleton.model.ByteSize() < 1500 + 600 * bool(external) < convnet().ByteSize()


def test_a_skeleton_with_its_data_put_back_is_the_model(tmp_path):
    path = save(convnet(), tmp_path / "m.onnx")
    skeleton, arrays = read(path)
    for tensor in skeleton.model.graph.initializer:
        tensor.raw_data = arrays[tensor.name].tobytes()
    assert skeleton.model == onnx.load(path)


def test_every_type_and_form_of_tensor_is_read(tmp_path):
    bf16 = helper.make_tensor("bf16", TensorProto.BFLOAT16, [2, 40], (np.arange(80) * 0.5).tolist())
    int4 = helper.make_tensor("int4", TensorProto.INT4, [200], [(i % 16) - 8 for i in range(200)])
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [2, 3], [1, 2, 3, 4, 5, 6])
    scalar = helper.make_tensor("scalar", TensorProto.INT64, [], [7])
    text = helper.make_tensor("text", TensorProto.STRING, [1], ["a"])
    plain = {
        "half": normal((40, 3), 1).astype(np.float16),
        "flags": np.arange(100) % 3 == 0,
        "none": np.zeros((0, 3), np.float32),
    }
    proto = model([node("Identity", "x", "y")], [value("x", [1])], [value("y", [1])], plain)
    proto.graph.initializer.extend([bf16, int4, floats, scalar, text])
    _, arrays = read(save(proto, tmp_path / "m.onnx"))
    assert (arrays["bf16"].dtype, arrays["bf16"].shape) == (np.uint16, (2, 40))
    np.testing.assert_array_equal(arrays["bf16"].ravel()[:3], [0x0000, 0x3F00, 0x3F80])
    assert (arrays["int4"].dtype, arrays["int4"].shape) == (np.uint8, (100,))
    assert arrays["int4"][0] == 0x98  # -8 in the low half, -7 in the high one
    np.testing.assert_array_equal(arrays["floats"], [[1, 2, 3], [4, 5, 6]])
    assert (arrays["scalar"].shape, int(arrays["scalar"])) == ((), 7)
    np.testing.assert_array_equal(arrays["flags"], np.arange(100) % 3 == 0)
    assert arrays["none"].shape == (0, 3)
    assert "text" not in arrays


def load(proto, tmp_path, **options):
    options.setdefault("loss", "cross-entropy")
    return from_onnx(save(proto, tmp_path / "m.onnx"), **options)


def test_the_names_and_layouts_of_the_file_are_kept(tmp_path):
    exported = load(mlp(), tmp_path)
    assert exported.parameters == tuple(mlp_tensors())
    for name, array in mlp_tensors().items():
        np.testing.assert_array_equal(exported.weights[name], array)
    assert all(
        t.data_location == TensorProto.EXTERNAL and not t.raw_data for t in exported.model.graph.initializer
    )
    assert (exported.task, exported.loss, exported.logits, exported.source.name) == (
        "classification", "cross-entropy", "y", "m.onnx",
    )  # fmt: skip


def test_the_reference_is_the_original_file(tmp_path):
    exported = load(mlp(), tmp_path)
    x = normal((5, 8), 1)
    np.testing.assert_allclose(
        exported.reference({"x": x})["y"], mlp_numpy(mlp_tensors(), x)[0], rtol=1e-4, atol=1e-5
    )


def test_constant_nodes_that_hold_weights_become_initializers(tmp_path):
    kernel, shape = normal((8, 4), 1), np.array([-1, 4])
    nodes = [
        node("Constant", "", "w", value=numpy_helper.from_array(kernel)),
        node("Constant", "", "b", value=numpy_helper.from_array(normal(4, 2))),
        node("Constant", "", "half", value=numpy_helper.from_array(np.array(0.5, np.float32))),
        node("Constant", "", "shape", value=numpy_helper.from_array(shape)),
        node("MatMul", "x w", "p"),
        node("Add", "p b", "q"),
        node("Mul", "q half", "r"),
        node("Reshape", "r shape", "y"),
    ]
    exported = load(model(nodes, [value("x", ["n", 8])], [value("y", ["n", 4])], {}), tmp_path)
    assert exported.parameters == ("w", "b")
    np.testing.assert_array_equal(exported.weights["w"], kernel)
    assert [n.output[0] for n in exported.model.graph.node if n.op_type == "Constant"] == ["half", "shape"]


def shared():
    """Zero biases that an exporter merged behind Identity, and a head tied to the embedding the same way."""
    tensors = {
        "embed.weight": normal((9, 4), 1, 1.0),
        "l0.weight": normal((4, 4), 2),
        "l1.weight": normal((4, 4), 3),
        "l0.bias": np.zeros(4, np.float32),
    }
    nodes = [
        node("Identity", "l0.bias", "l1.bias"),
        node("Identity", "l0.bias", "l2.bias"),
        node("Identity", "embed.weight", "head.weight"),
        node("Gather", "embed.weight ids", "h"),
        node("MatMul", "h l0.weight", "a"),
        node("Add", "a l0.bias", "b"),
        node("MatMul", "b l1.weight", "c"),
        node("Add", "c l1.bias", "d"),
        node("Add", "d l2.bias", "e"),
        node("ReduceMean", "e axes", "f", keepdims=0),
        node("Gemm", "f head.weight", "logits", transB=1),
    ]
    tensors["axes"] = np.array([1])
    return model(nodes, [value("ids", ["n", "s"], INT64)], [value("logits", ["n", 9])], tensors)


def test_equal_values_that_an_exporter_merged_are_split_and_ties_are_kept(tmp_path):
    exported = load(shared(), tmp_path)
    assert set(exported.parameters) == {
        "embed.weight",
        "l0.weight",
        "l1.weight",
        "l0.bias",
        "l1.bias",
        "l2.bias",
    }
    assert [n.output[0] for n in exported.model.graph.node if n.op_type == "Identity"] == ["head.weight"]


def test_a_tied_copy_is_split_only_by_name(tmp_path):
    exported = load(shared(), tmp_path, named=("head.weight",))
    assert "head.weight" in exported.parameters
    np.testing.assert_array_equal(exported.weights["head.weight"], exported.weights["embed.weight"])
    assert not [n for n in exported.model.graph.node if n.op_type == "Identity"]


def test_initializers_that_do_not_look_learnt_can_be_named(tmp_path):
    tensors = {"w": normal((4, 3), 1), "temperature": np.array(2.0, np.float32)}
    nodes = [node("MatMul", "x w", "p"), node("Mul", "p temperature", "y")]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], tensors)
    assert load(proto, tmp_path).parameters == ("w",)
    assert load(proto, tmp_path, named=("temperature",)).parameters == ("w", "temperature")


def test_small_settings_stay_in_the_graph_and_large_tables_leave_it(tmp_path):
    tensors = {"shape": np.array([-1, 4]), "table": np.arange(2000), "w": normal((4, 3), 1)}
    nodes = [
        node("Reshape", "x shape", "a"),
        node("MatMul", "a w", "b"),
        node("ReduceSum", "table", "t", keepdims=0),
        node("Cast", "t", "tf", to=TensorProto.FLOAT),
        node("Add", "b tf", "y"),
    ]
    exported = load(model(nodes, [value("x", ["n", 2, 2])], [value("y", ["n", 3])], tensors), tmp_path)
    assert set(exported.weights) == {"w", "table"}
    kept = {t.name: t for t in exported.model.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(kept["shape"]), [-1, 4])


def test_old_files_that_list_initializers_as_inputs(tmp_path):
    proto = mlp(opset=11, ir_version=3)
    proto.graph.input.extend(value(t.name, list(t.dims)) for t in proto.graph.initializer)
    exported = load(proto, tmp_path)
    assert [v.name for v in exported.model.graph.input] == ["x"]


def test_local_functions_are_written_out(tmp_path):
    proto = model([helper.make_node("Layer", ["x", "w"], ["y"], domain="mine")], [value("x", ["n", 4])],
                  [value("y", ["n", 3])], {"w": normal((4, 3), 1)}, domains=("mine",))  # fmt: skip
    body = [node("MatMul", "a b", "c")]
    proto.functions.append(
        helper.make_function("mine", "Layer", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    )
    exported = load(proto, tmp_path)
    assert [n.op_type for n in exported.model.graph.node] == ["MatMul"]
    assert exported.parameters == ("w",)


@pytest.mark.parametrize(
    ("activation", "loss"), [("Softmax", "cross-entropy"), ("Sigmoid", "bce-with-logits")]
)
def test_the_loss_takes_what_a_final_activation_reads(tmp_path, activation, loss):
    told = []
    exported = load(mlp(tail=[node(activation, "y", "p")]), tmp_path, loss=loss, say=told.append)
    assert exported.logits == "y"
    assert told == [f"p is a {activation}: the loss {loss} is computed from its input, y"]
    x = normal((3, 8), 2)
    got = exported.reference({"x": x})
    np.testing.assert_allclose(got["y"], mlp_numpy(mlp_tensors(), x)[0], rtol=1e-4, atol=1e-5)
    assert set(got) == {"p", "y"}


def test_an_internal_value_of_a_file_with_external_data_can_be_named(tmp_path):
    path = save(mlp(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    exported = from_onnx(path, loss="mse", output_name="f")
    x = normal((3, 8), 2)
    np.testing.assert_allclose(
        exported.reference({"x": x})["f"], mlp_numpy(mlp_tensors(), x)[1], rtol=1e-4, atol=1e-5
    )


def test_samples_fit_the_graph(tmp_path):
    rng = np.random.default_rng(0)
    exported = load(language_model(), tmp_path, loss="mse")
    ids = exported.sample_inputs(rng, 3, 50)["input_ids"]
    assert (ids.shape, ids.dtype) == ((3, 50), np.int64)
    assert 0 <= ids.min() < ids.max() == 10  # the table has 11 rows
    pixels = load(convnet(), tmp_path).sample_inputs(rng, 2, 9)["pixels"]
    assert (pixels.shape, pixels.dtype) == ((2, 3, 8, 8), np.float32)


def test_samples_imitate_example_inputs(tmp_path):
    rng = np.random.default_rng(0)
    example = np.full((1, 8), 100.0, np.float32) + np.arange(8, dtype=np.float32)
    drawn = load(mlp(), tmp_path, example_inputs={"x": example}).sample_inputs(rng, 50, 3)["x"]
    assert drawn.shape == (50, 8)
    assert 90 < drawn.mean() < 115


def test_a_fixed_batch_is_kept(tmp_path):
    exported = load(mlp(batch=4), tmp_path)
    assert exported.sample_inputs(np.random.default_rng(0), 2, 5)["x"].shape == (4, 8)


def refuse(proto, tmp_path, **options):
    path = proto if not hasattr(proto, "graph") else save(proto, tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        from_onnx(path, **{"loss": "cross-entropy", **options})
    return str(error.value).replace(str(tmp_path), "")


def test_options_that_do_not_fit_are_refused(tmp_path):
    two = mlp()
    two.graph.output.append(value("f", ["n", 12]))
    assert refuse(two, tmp_path) == "m.onnx has 2 outputs: choose one with --output-name y or f"
    assert refuse(mlp(), tmp_path, output_name="z") == "m.onnx has no output 'z': its outputs are y"
    assert refuse(mlp(tail=[node("Identity", "y", "logits")]), tmp_path, output_name="logit") == (
        "m.onnx has no output 'logit': its outputs are logits; did you mean logits?"
    )
    assert refuse(mlp(), tmp_path, loss=None) == (
        "an .onnx file doesn't say what it was trained for: give --loss cross-entropy, bce-with-logits, mse "
        "or --task classification, regression"
    )
    assert refuse(mlp(), tmp_path, loss="cross_entropy") == (
        "--loss cross_entropy is not built in: use cross-entropy, bce-with-logits, mse; did you mean cross-entropy?"
    )
    assert refuse(mlp(), tmp_path, task="text-classification") == (
        "an .onnx file has no task 'text-classification': use classification or regression; "
        "did you mean classification?"
    )
    assert (
        refuse(mlp(), tmp_path, task="regression")
        == "the task regression has no loss 'cross-entropy': use mse"
    )
    assert (
        refuse(mlp(), tmp_path, labels=("a", "b"))
        == "2 labels are given and y has 3 classes: make them equal"
    )
    assert refuse(mlp(), tmp_path, loss="mse", labels=("a",)) == (
        "labels are given for a regression, which has none: leave them out"
    )
    assert refuse(mlp(), tmp_path, example_inputs={"z": np.zeros((1, 8))}) == (
        "example_inputs names z, which is no input"
    )
    assert refuse(mlp(), tmp_path, example_inputs={"x": np.zeros((1, 7))}) == (
        "example_inputs has x of shape [1, 7]: the graph takes ['n', 8]"
    )


def test_files_that_can_not_be_read_are_refused(tmp_path):
    assert refuse(tmp_path / "no.onnx", tmp_path) == "/no.onnx doesn't exist: give the path of an .onnx file"
    for content in (b"", b"not a model at all", b"\x08\x08"):
        (tmp_path / "bad.onnx").write_bytes(content)
        message = refuse(tmp_path / "bad.onnx", tmp_path)
        assert message.startswith("/bad.onnx is no ONNX model or is damaged"), content
    whole = mlp().SerializeToString()
    (tmp_path / "bad.onnx").write_bytes(whole[: len(whole) // 2])
    assert refuse(tmp_path / "bad.onnx", tmp_path) == (
        "/bad.onnx is no ONNX model or is damaged: copy or export it again"
    )
    assert refuse(mlp(opset=9), tmp_path) == (
        "/m.onnx has opset 9 and zoedge needs 11 or later: convert it with "
        "onnx.version_converter.convert_version(model, 18)"
    )
    load(version_converter.convert_version(mlp(opset=9), 18), tmp_path)
    unknown = mlp(opset=9, tail=[node("Frob", "y", "z")])
    assert refuse(unknown, tmp_path) == (
        "/m.onnx has opset 9 and zoedge needs 11 or later: export it again from where it was made, with a newer one"
    )


def test_external_data_that_is_missing_short_or_outside_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.onnx"
    save(mlp(), path, save_as_external_data=True, size_threshold=0, location="m.data")
    data = (tmp_path / "in" / "m.data").read_bytes()
    (tmp_path / "in" / "m.data").write_bytes(data[:-8])
    assert refuse(path, tmp_path) == (
        "/in/m.onnx: the data of classifier.bias is cut off or doesn't fit its shape: copy or export the "
        "model and its data again"
    )
    (tmp_path / "in" / "m.data").unlink()
    assert (
        refuse(path, tmp_path)
        == "/in/m.onnx keeps its weights in 'm.data', which is missing or empty: copy both files"
    )
    proto = onnx.load(path, load_external_data=False)
    (tmp_path / "m.data").write_bytes(data)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../m.data"
    path.write_bytes(proto.SerializeToString())
    assert (
        refuse(path, tmp_path)
        == "/in/m.onnx refers to ../m.data, which lies outside its folder: put them side by side"
    )


def test_operators_that_onnxruntime_lacks_are_named(tmp_path):
    import onnxruntime

    unknown = mlp(tail=[helper.make_node("Bar", ["y"], ["z"], domain="ai.custom")])
    unknown.opset_import.append(helper.make_opsetid("ai.custom", 1))
    assert refuse(unknown, tmp_path) == (
        f"onnxruntime {onnxruntime.__version__} can't run /m.onnx: it has no operator ai.custom:Bar; export the "
        "model with standard operators"
    )
    missing = mlp(tail=[node("Frob", "y", "z")])
    assert "it has no operator Frob; export" in refuse(missing, tmp_path)


def test_products_of_bfloat16_are_refused_with_the_way_out(tmp_path):
    """onnxruntime's CPU has none; a matrix that is only stored so, and cast, is fine."""
    half = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[4, 3], raw_data=bytes(24))
    nodes = [
        node("Cast", "x", "h", to=TensorProto.BFLOAT16),
        node("MatMul", "h w", "m"),
        node("Cast", "m", "y", to=TensorProto.FLOAT),
    ]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], {})
    proto.graph.initializer.append(half)
    assert "its CPU has no MatMul for these types; let the graph cast bfloat16 to float32" in refuse(
        proto, tmp_path
    )


def test_outputs_without_a_batch_axis_are_refused(tmp_path):
    proto = mlp(tail=[node("ReduceSum", "y", "total", keepdims=0)])
    del proto.graph.output[:]
    proto.graph.output.append(value("total", []))
    assert refuse(proto, tmp_path, loss="mse") == (
        "no axis of the output total of m.onnx, of shape [], follows the batch of its inputs (x ['n', 8]): export "
        "the file with one dynamic dimension for the batch, in its inputs and outputs"
    )


def test_inputs_that_no_guess_fits_ask_for_examples(tmp_path):
    tensors = {"shape": np.array([-1, 12]), "w": normal((12, 3), 1)}
    nodes = [node("Reshape", "x shape", "a"), node("MatMul", "a w", "y")]
    proto = model(nodes, [value("x", ["n", "m"])], [value("y", ["n", 3])], tensors)
    message = refuse(proto, tmp_path)
    assert message.startswith("onnxruntime")
    assert message.endswith("give example_inputs of valid shapes and values")
    exported = load(proto, tmp_path, example_inputs={"x": np.zeros((1, 12), np.float32)})
    assert run(proto, {"x": np.zeros((2, 12), np.float32)})["y"].shape == (2, 3)
    assert exported.sample_inputs(np.random.default_rng(0), 2, 5)["x"].shape == (2, 12)
