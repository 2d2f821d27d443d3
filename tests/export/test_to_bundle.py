"""From a model file to a bundle: what lies in it, that it computes the same, and that failure leaves nothing."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file

import zoedge.export.writer
from tests.builders.models import (
    convnet,
    language_model,
    mlp,
    mlp_numpy,
    mlp_tensors,
    model,
    node,
    normal,
    run,
    run_ours,
    save,
    value,
)
from zoedge import InputError, ZoedgeError
from zoedge.adapters import lora_branches
from zoedge.export import to_bundle
from zoedge.tensor_file import map_tensors, read_entries

X = normal((5, 8), 99)
LABELS = np.array([0, 2, 1, 1, 0])


def make(tmp_path, proto=None, *, told=None, **options):
    path = save(proto if proto is not None else mlp(), tmp_path / "m.onnx")
    options.setdefault("loss", "cross-entropy")
    return to_bundle(path, tmp_path / "bundle", say=(told if told is not None else []).append, **options)


def session(path, buffers=None):
    """A session as the device makes it."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # onnxruntime holds a bare pointer to each value until the session is made
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (buffers or {}).items()}
    for name, shared in values.items():
        options.add_initializer(name, shared)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path, inputs, buffers=None):
    return run_ours(session(path, buffers), inputs)


def test_the_manifest_describes_the_graphs(tmp_path):
    bundle = make(tmp_path, train=("lora", "head"), lora_rank=2, labels=("a", "b", "c"))
    m = bundle.manifest
    assert (m.task, m.loss, m.labels, m.source.kind, m.source.name) == (
        "classification", "cross-entropy", ("a", "b", "c"), "onnx", "m.onnx",
    )  # fmt: skip
    assert [(p.name, p.dtype, p.shape) for p in m.inputs] == [("x", "float32", ("n", 8))]
    assert [(p.name, p.dtype, p.shape) for p in m.targets] == [("labels", "int64", ("n",))]
    assert [(p.name, p.shape) for p in m.outputs] == [
        ("loss", ("n",)), ("weight", ("n",)), ("logits", ("n", 3)), ("features", ("n", 12)),
    ]  # fmt: skip
    assert [(p.name, p.shape) for p in m.model_outputs] == [("y", ("n", 3))]
    assert [p.name for p in m.parameters] == [
        *mlp_tensors(),
        "blocks.0.fc.lora_A.weight", "blocks.0.fc.lora_B.weight",
        "blocks.1.fc.lora_A.weight", "blocks.1.fc.lora_B.weight",
    ]  # fmt: skip
    assert [p.name for p in m.trainable] == [p.name for p in m.parameters if p.group in ("head", "lora")]
    assert {p.file for p in m.parameters if p.group == "lora"} == {"adapters.safetensors"}
    assert (m.head.weight, m.head.fresh) == ("classifier.weight", False)
    assert {
        "model.onnx",
        "loss.onnx",
        "model_adapters.onnx",
        "weights.safetensors",
        "adapters.safetensors",
    } <= set(m.files)


def test_the_graphs_have_the_promised_form(tmp_path):
    bundle = make(tmp_path, train=("lora", "head"))
    trainable = {p.name for p in bundle.manifest.trainable}
    for name in ("model.onnx", "loss.onnx", "model_adapters.onnx"):
        proto = onnx.load(bundle.path(name), load_external_data=False)
        onnx.checker.check_model(bundle.path(name))
        inputs = {v.name for v in proto.graph.input}
        held = {t.name: t for t in proto.graph.initializer}
        assert proto.ir_version >= 4
        assert inputs & set(held) == (set() if name == "model.onnx" else trainable)
        for tensor in held.values():
            if tensor.name in {p.name for p in bundle.manifest.parameters}:
                file = {e.key: e.value for e in tensor.external_data}["location"]
                assert file == ("adapters.safetensors" if "lora" in tensor.name else "weights.safetensors")
    assert (bundle.path("model.onnx").read_bytes()).count(b"safetensors") == len(mlp_tensors())


def test_the_loss_graph_computes_the_model_and_its_loss(tmp_path):
    bundle = make(tmp_path, train=("full",))
    got = outputs(bundle.path("loss.onnx"), {"x": X, "labels": LABELS})
    logits, features = mlp_numpy(mlp_tensors(), X)
    np.testing.assert_allclose(got["logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["features"], features, rtol=1e-4, atol=1e-5)
    wanted = np.log(np.exp(logits).sum(1)) - logits[range(5), LABELS]
    np.testing.assert_allclose(got["loss"], wanted, rtol=1e-4)
    np.testing.assert_array_equal(got["weight"], np.ones(5))
    np.testing.assert_allclose(
        outputs(bundle.path("model.onnx"), {"x": X})["y"], logits, rtol=1e-4, atol=1e-5
    )


def test_every_trainable_buffer_is_read_in_place(tmp_path):
    bundle = make(tmp_path, train=("full", "lora"))
    files = {
        **map_tensors(bundle.path("weights.safetensors")),
        **map_tensors(bundle.path("adapters.safetensors")),
    }
    buffers = {p.name: files[p.name] for p in bundle.manifest.trainable}
    made = session(bundle.path("loss.onnx"), buffers)
    for i, buffer in enumerate(buffers.values()):
        buffer += normal(buffer.shape, i)
    merged = {name: buffers[name] for name in mlp_tensors()}
    for branch in lora_branches(bundle.manifest):
        product = branch.alpha / branch.rank * buffers[branch.b] @ buffers[branch.a]
        merged[branch.weight] = merged[branch.weight] + (product.T if branch.transposed else product)
    logits = run_ours(made, {"x": X, "labels": LABELS})["logits"]
    np.testing.assert_allclose(logits, mlp_numpy(merged, X)[0], rtol=1e-3, atol=1e-3)


def test_tensors_lie_under_their_own_names_for_any_safetensors_reader(tmp_path):
    bundle = make(tmp_path)
    stored = load_file(bundle.path("weights.safetensors"))
    assert stored.keys() == mlp_tensors().keys()
    for name, array in mlp_tensors().items():
        np.testing.assert_array_equal(stored[name], array)
    assert set(load_file(bundle.path("adapters.safetensors"))) == {
        f"blocks.{i}.fc.lora_{side}.weight" for i in range(2) for side in "AB"
    }


def test_model_onnx_runs_on_a_file_of_the_merged_name(tmp_path):
    bundle = make(tmp_path)
    folder = tmp_path / "merged"
    folder.mkdir()
    raw = bundle.path("model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw.replace(b"weights.safetensors", b"./model.safetensors"))
    (folder / "model.safetensors").write_bytes(bundle.path("weights.safetensors").read_bytes())
    np.testing.assert_allclose(
        outputs(folder / "model.onnx", {"x": X})["y"], mlp_numpy(mlp_tensors(), X)[0], rtol=1e-4, atol=1e-5
    )


def test_a_stock_adapter_feeds_the_adapted_model(tmp_path):
    bundle = make(tmp_path, train=("lora", "head"), lora_rank=2, lora_alpha=3.0)
    values = {p.name: normal(p.shape, i) for i, p in enumerate(bundle.manifest.trainable)}
    got = session(bundle.path("model_adapters.onnx")).run(["y"], {"x": X, **values})[0]
    merged = mlp_tensors() | {k: v for k, v in values.items() if "lora" not in k}
    for branch in lora_branches(bundle.manifest):
        product = 1.5 * values[branch.b] @ values[branch.a]
        merged[branch.weight] = merged[branch.weight] + (product.T if branch.transposed else product)
    np.testing.assert_allclose(got, mlp_numpy(merged, X)[0], rtol=1e-4, atol=1e-4)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = make(tmp_path / "a", train=("lora",)), make(tmp_path / "b", train=("lora",))
    assert first.digest == second.digest
    assert first.path("bundle.json").read_bytes() == second.path("bundle.json").read_bytes()


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("train", ["full", "norm", "head", "conv*"])
def test_a_convolutional_network(tmp_path, train, external):
    path = save(
        convnet(),
        tmp_path / "m.onnx",
        **({"save_as_external_data": True, "size_threshold": 0} if external else {}),
    )
    bundle = to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=(train,))
    pixels = normal((3, 3, 8, 8), 1)
    wanted = run(convnet(), {"pixels": pixels})["logits"]
    got = outputs(bundle.path("loss.onnx"), {"pixels": pixels, "labels": np.array([0, 1, 3])})
    np.testing.assert_allclose(got["logits"], wanted, rtol=1e-4, atol=1e-5)
    assert bundle.manifest.head.weight == "fc.weight"
    assert not {p.name for p in bundle.manifest.parameters} & {"bn.running_mean", "bn.running_var"}


def test_convolutions_alone_have_no_branches_by_default(tmp_path):
    with pytest.raises(InputError) as error:
        make(tmp_path, convnet())
    assert str(error.value) == (
        "the graph has no linear layer for a LoRA branch (convolutions and embeddings get none, the head only by "
        "name): use --train full, --train head or --train bitfit"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("loss", ["mse", "bce-with-logits"])
def test_float_targets_have_the_shape_of_the_output(tmp_path, loss):
    bundle = make(tmp_path, loss=loss, train=("full",))
    assert [(p.name, p.dtype, p.shape) for p in bundle.manifest.targets] == [("labels", "float32", ("n", 3))]
    assert bundle.manifest.task == {"mse": "regression", "bce-with-logits": "classification"}[loss]


def test_a_fixed_batch_stays_fixed(tmp_path):
    bundle = make(tmp_path, mlp(batch=4), train=("full",))
    assert bundle.manifest.inputs[0].shape == (4, 8)
    assert bundle.manifest.targets[0].shape == (4,)
    assert bundle.manifest.outputs[0].shape == (4,)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_the_opset_of_the_file_is_kept(tmp_path, opset):
    bundle = make(tmp_path, mlp(opset=opset), train=("full", "lora"))
    for file in ("model.onnx", "loss.onnx"):
        (found,) = onnx.load(bundle.path(file), load_external_data=False).opset_import
        assert (found.domain, found.version) == ("", opset)


def quantised():
    """A float layer, then one with an 8-bit matrix as dynamic quantisation writes it, then a float head."""
    rng = np.random.default_rng(4)
    tensors = {
        "l0.weight": normal((16, 8), 1), "l0.bias": normal(16, 2),
        "l1.weight_quantized": rng.integers(-100, 100, (16, 64)).astype(np.int8), "scale": np.array(0.01, np.float32),
        "zero": np.array(0, np.int8), "l1.bias": normal(64, 3),
        "head.weight": normal((3, 64), 5), "head.bias": normal(3, 6),
    }  # fmt: skip
    nodes = [
        node("Gemm", "x l0.weight l0.bias", "a", transB=1),
        node("Relu", "a", "b"),
        node("DynamicQuantizeLinear", "b", "q qs qz"),
        node("MatMulInteger", "q l1.weight_quantized qz zero", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "qs scale", "s"),
        node("Mul", "f s", "p"),
        node("Add", "p l1.bias", "c"),
        node("Gemm", "c head.weight head.bias", "y", transB=1),
    ]
    return model(nodes, [value("x", ["n", 8])], [value("y", ["n", 3])], tensors)


def test_a_quantised_model_is_tuned_by_branches(tmp_path):
    bundle = make(tmp_path, quantised(), train=("lora", "bitfit"))
    assert [(b.module, b.weight) for b in bundle.manifest.branches] == [
        ("l0", "l0.weight"),
        ("l1", "l1.weight_quantized"),
    ]
    row = next(p for p in bundle.manifest.parameters if p.name == "l1.weight_quantized")
    assert (row.dtype, row.shape, row.trainable) == ("int8", (16, 64), False)
    assert load_file(bundle.path("weights.safetensors"))["l1.weight_quantized"].dtype == np.int8
    with pytest.raises(
        InputError, match=r"--train full can't train a quantised graph \(this one computes with "
    ):
        make(tmp_path / "..", quantised(), train=("full",))


def test_what_onnxruntimes_own_quantizer_writes_is_tuned_by_branches(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    save(mlp(), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "q.onnx", weight_type=QuantType.QInt8)
    bundle = to_bundle(tmp_path / "q.onnx", tmp_path / "bundle", loss="cross-entropy")
    assert [b.module for b in bundle.manifest.branches] == ["blocks.0.fc", "blocks.1.fc"]
    wanted = run(onnx.load(tmp_path / "q.onnx"), {"x": X})["y"]
    got = outputs(bundle.path("loss.onnx"), {"x": X, "labels": LABELS})["logits"]
    np.testing.assert_allclose(got, wanted, atol=0.05)


def test_half_precision_weights_get_float32_branches(tmp_path):
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("Gemm", "h l0.weight l0.bias", "a", transB=1),
        node("Relu", "a", "b"),
        node("Gemm", "b head.weight", "y", transB=1),
    ]
    tensors = {
        k: v.astype(np.float16)
        for k, v in {
            "l0.weight": normal((16, 8), 1),
            "l0.bias": normal(16, 2),
            "head.weight": normal((3, 16), 5),
        }.items()
    }
    proto = model(nodes, [value("x", ["n", 8])], [value("y", ["n", 3], TensorProto.FLOAT16)], tensors)
    bundle = make(tmp_path, proto)
    assert {p.dtype for p in bundle.manifest.trainable} == {"float32"}
    assert next(p for p in bundle.manifest.outputs if p.name == "logits").dtype == "float32"
    assert load_file(bundle.path("weights.safetensors"))["l0.weight"].dtype == np.float16
    with pytest.raises(InputError) as error:
        to_bundle(tmp_path / "m.onnx", tmp_path / "other", loss="mse", train=("full",))
    assert str(error.value) == (
        "--train full finds nothing: the model has no float32 parameters (float16 and integers can't be "
        "trained): use --train lora"
    )


def with_pooler():
    """A second output with a layer of its own, which the loss doesn't read."""
    proto = mlp()
    proto.graph.node.append(node("MatMul", "f pooler.weight", "pooled"))
    proto.graph.initializer.append(numpy_helper.from_array(normal((12, 4), 1), "pooler.weight"))
    proto.graph.output.append(value("pooled", ["n", 4]))
    return proto


def test_parameters_outside_the_loss_are_frozen_and_said(tmp_path):
    told = []
    bundle = make(tmp_path, with_pooler(), output_name="y", train=("full",), told=told)
    assert told == ["left frozen, as they have no effect on the loss: pooler.weight"]
    row = next(p for p in bundle.manifest.parameters if p.name == "pooler.weight")
    assert not row.trainable
    assert outputs(bundle.path("model.onnx"), {"x": X})["pooled"].shape == (5, 4)


def with_dead():
    """A bias that a ReLU behind a large negative constant always hides."""
    proto = mlp()
    proto.graph.initializer.append(numpy_helper.from_array(normal(12, 1), "hidden.bias"))
    proto.graph.initializer.append(numpy_helper.from_array(np.full(12, -1e6, np.float32), "low"))
    proto.graph.initializer.append(numpy_helper.from_array(normal((12, 12), 1), "hidden.weight"))
    head = next(n for n in proto.graph.node if n.input[0] == "f")
    head.input[0] = "f2"
    at = list(proto.graph.node).index(head)
    nodes = [
        node("MatMul", "f hidden.weight", "g0"), node("Add", "g0 hidden.bias", "g"), node("Sub", "g low", "g1"),
        node("Neg", "g1", "g2"), node("Relu", "g2", "g3"), node("Add", "f g3", "f2"),
    ]  # fmt: skip
    every = list(proto.graph.node)
    every[at:at] = nodes
    copies = onnx.GraphProto(node=every)
    del proto.graph.node[:]
    proto.graph.node.extend(copies.node)
    return proto


def test_tensors_that_the_session_shows_to_be_dead_are_frozen_and_said(tmp_path):
    told = []
    bundle = make(tmp_path, with_dead(), train=("full",), told=told)
    assert told == ["left frozen, as they have no effect on the loss: hidden.bias, hidden.weight"]
    proto = onnx.load(bundle.path("loss.onnx"), load_external_data=False)
    assert not {"hidden.bias", "hidden.weight"} & {v.name for v in proto.graph.input}
    assert {p.name for p in bundle.manifest.trainable} == set(mlp_tensors())


def test_branches_that_turn_out_dead_are_left_out(tmp_path):
    bundle = make(tmp_path, with_dead())
    assert [b.module for b in bundle.manifest.branches] == ["blocks.0.fc", "blocks.1.fc"]
    assert set(read_entries(bundle.path("adapters.safetensors"))) == {
        p.name for p in bundle.manifest.trainable
    }


def test_a_dead_tensor_asked_for_by_name_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        make(tmp_path, with_dead(), train=("hidden.bias",))
    assert str(error.value) == (
        "--train hidden.bias names only tensors that have no effect on the loss (hidden.bias): "
        "use --train lora, --train full or --train head"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_bundle_that_disagrees_with_its_source_is_not_left_behind(tmp_path, monkeypatch):
    assemble = zoedge.export.writer.assemble

    def wrong(*args):
        made = assemble(*args)
        next(n for n in made.loss.graph.node if n.op_type == "Relu").op_type = "Abs"
        return made

    monkeypatch.setattr(zoedge.export.writer, "assemble", wrong)
    with pytest.raises(
        ZoedgeError, match=r"^logits of loss.onnx differs from the source by .*: the bundle is not written$"
    ):
        make(tmp_path, train=("full",))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_wrong_loss_is_noticed(tmp_path, monkeypatch):
    assemble = zoedge.export.writer.assemble

    def wrong(*args):
        made = assemble(*args)
        next(n for n in made.loss.graph.node if n.op_type == "LogSoftmax").op_type = "Softmax"
        return made

    monkeypatch.setattr(zoedge.export.writer, "assemble", wrong)
    with pytest.raises(ZoedgeError, match=r"^loss of loss.onnx differs from the source"):
        make(tmp_path, train=("full",))


def test_a_trainable_that_became_a_constant_is_noticed(tmp_path, monkeypatch):
    assemble = zoedge.export.writer.assemble

    def constant(*args):
        made = assemble(*args)
        del made.loss.graph.input[-1]
        return made

    monkeypatch.setattr(zoedge.export.writer, "assemble", constant)
    with pytest.raises(ZoedgeError) as error:
        make(tmp_path, train=("full",))
    assert str(error.value) == (
        "onnxruntime holds classifier.bias as a constant, so tuning could not reach it: please report this model"
    )


def test_a_graph_with_random_operators_is_refused(tmp_path):
    noisy = mlp(tail=[node("RandomNormalLike", "y", "r"), node("Add", "y r", "z")])
    with pytest.raises(
        InputError, match=r"^the output z of m.onnx depends on chance: RandomNormalLike draws"
    ):
        make(tmp_path, noisy, train=("full",))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_names_that_the_loss_graph_needs_are_refused_or_moved(tmp_path):
    tensors = {"zoedge/weight": normal((8, 3), 1)}
    clash = model(
        [node("MatMul", "x zoedge/weight", "y")], [value("x", ["n", 8])], [value("y", ["n", 3])], tensors
    )
    with pytest.raises(InputError) as error:
        make(tmp_path, clash, train=("full",))
    assert str(error.value) == (
        "the model has a tensor named 'zoedge/weight', a name that zoedge gives to what it adds: export model.onnx of "
        "a bundle, or rename it"
    )
    nodes = [
        node("MatMul", "x w", "loss"),
        node("Relu", "loss", "features"),
        node("MatMul", "features v", "logits"),
    ]
    inner = model(
        nodes,
        [value("x", ["n", 8])],
        [value("logits", ["n", 3])],
        {"w": normal((8, 4), 1), "v": normal((4, 3), 2)},
    )
    bundle = make(tmp_path, inner, train=("full",))
    got = outputs(bundle.path("loss.onnx"), {"x": X, "labels": LABELS})
    hidden = np.maximum(X @ normal((8, 4), 1), 0)
    np.testing.assert_allclose(got["features"], hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["logits"], hidden @ normal((4, 3), 2), rtol=1e-4, atol=1e-5)


def test_logits_that_do_not_fit_the_loss_are_refused(tmp_path):
    with pytest.raises(InputError) as error:
        make(tmp_path, language_model(), train=("full",))
    assert str(error.value) == (
        "the output logits has the shape [batch, sequence, 11] and cross-entropy needs [batch, classes]: "
        "use --loss bce-with-logits or mse, which take any shape"
    )


def test_an_existing_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("kept")
    with pytest.raises(InputError) as error:
        to_bundle(tmp_path / "absent.onnx", tmp_path / "bundle", loss="mse")
    assert (
        str(error.value)
        == f"{tmp_path / 'bundle'} exists already: choose another output folder or remove it first"
    )
    assert (tmp_path / "bundle" / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"template": "{text} {label}"},
            "an .onnx file without a tokenizer.json beside it has no option template: leave it out",
        ),
        (
            {"max_seq_length": 5},
            "an .onnx file without a tokenizer.json beside it has no option max_seq_length: leave it out",
        ),
        ({"train": "full"}, "train is the text 'full': give a list like ['full']"),
        ({"train": "lora, head"}, "train is the text 'lora, head': give a list like ['lora', 'head']"),
        ({"lora_rank": 0}, "--lora-rank is 0 and must be at least 1"),
        ({"lora_alpha": 0.0}, "--lora-alpha is 0.0 and must be above 0"),
        ({"lora_alpha": float("nan")}, "--lora-alpha is nan and must be above 0"),
        ({"activation": 2}, "an export has no setting 'activation'; did you mean tt_activation?"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        make(tmp_path, **options)
    assert str(error.value) == message
