"""Files of onnxruntime's fused operators: every tensor is trained by what its operator does with it, or named."""

import warnings
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.builders.fused import CASES, ROUNDED
from tests.builders.models import model, normal, save, value
from zoedge import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.loaded import load_buffers
from zoedge.runtime.passes.engine import Engine


def rows(bundle, count=3, seed=0):
    """Inputs of the bundle's own shapes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for port in bundle.manifest.inputs:
        shape = [count, *(dim if isinstance(dim, int) else 6 for dim in port.shape[1:])]
        whole = "int" in port.dtype
        drawn = np.ones(shape) if "mask" in port.name else rng.integers(0, 2, shape)
        arrays[port.name] = (drawn if whole else rng.standard_normal(shape)).astype(port.dtype)
    return arrays


def stock(path, values, given):
    """What stock onnxruntime makes of the file with other values of its initializers."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, given
    )[0]


def follows(bundle, path):
    """Change every trainable tensor; the loss graph must compute what the file with those values does."""
    buffers = load_buffers(bundle, Cpu())
    given = rows(bundle)
    for number, array in enumerate(buffers.values()):
        array += normal(array.shape, number, 0.2)
    wanted = stock(path, {name: array.copy() for name, array in buffers.items()}, given)
    (target,) = bundle.manifest.targets
    labels = np.zeros(wanted.shape if target.dtype == "float32" else len(wanted), target.dtype)
    got = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run({**given, "labels": labels})
    np.testing.assert_allclose(got["logits"], wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_tensors_of_fused_operators(tmp_path, case):
    made = CASES[case]()
    path = save(made.model, tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "b", loss="mse", train=("full",))
    trained = {p.name: (p.group, p.decay) for p in bundle.manifest.trainable}
    head = {
        name for name, (group, _) in trained.items() if group == "head"
    }  # a last layer, whatever else it is
    assert trained == {n: ("head" if n in head else group, decay) for n, (group, decay) in made.roles.items()}
    assert {row.name: row.reason for row in bundle.manifest.frozen if row.size} == (made.frozen or {})
    follows(bundle, path)


LAYERS = {
    "FusedMatMul": ["w"],
    "FusedGemm": ["w"],
    "BiasGelu": ["w"],
    "SkipLayerNormalization": ["w"],
    "MultiHeadAttention": ["q", "k", "v"],
    "RotaryEmbedding": ["q", "k"],
    "GroupQueryAttention": ["q", "k", "v", "o"],
    "LSTM": ["head"],
}
OTHERS = ("FusedMatMul with a factor", "EmbedLayerNormalization", "Attention", "FusedConv")


@pytest.mark.parametrize("case", CASES)
def test_branches_lie_beside_linear_layers(tmp_path, case):
    path = save(CASES[case]().model, tmp_path / "m.onnx")
    export = partial(to_bundle, path, tmp_path / "b", loss="mse", train=("lora",), target_modules=("*",))
    if case in LAYERS:
        assert [branch.weight for branch in export().manifest.branches] == LAYERS[case]
    elif case in OTHERS:
        with pytest.raises(InputError, match=r"names no linear layer .*: use --train full"):
            export()


@pytest.mark.parametrize(("case", "named"), [("GRU", "r, w"), ("FusedConv", "w")])
def test_matrices_without_a_branch_are_named(tmp_path, case, named):
    made, said = CASES[case](), []
    made.model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "tail"], ["z"]))
    made.model.graph.node.append(onnx.helper.make_node("MatMul", ["z", "end"], ["out"]))
    width = made.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for name, array in (("tail", normal((width, 4), 1)), ("end", normal((4, 2), 2))):
        made.model.graph.initializer.append(numpy_helper.from_array(array, name))
    made.model.graph.output[0].CopyFrom(value("out", ["n", 2]))
    bundle = to_bundle(save(made.model, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", say=said.append)
    assert "tail" in {branch.weight for branch in bundle.manifest.branches}
    (text,) = (text for text in said if "LoRA" in text)
    assert text.startswith(
        f"no LoRA branch lies beside {named} (read by {case}), as it needs the product of an activation and one"
    )


@pytest.mark.parametrize(
    ("case", "branches", "elements"),
    [
        ("MatMulNBits", ["w"], 16 * 8 + 8 + 8 + 8 * 3 + 3),
        ("DynamicQuantizeMatMul", ["w"], 64 + 8 + 8),
        ("QAttention", [], 8 * 24 + 24 + 1),
    ],
)
def test_rounded_fused_operators(tmp_path, case, branches, elements):
    """Integers are counted and named; biases are trained; what an error recommends works."""
    path = save(ROUNDED[case](), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"can't train a quantised graph \(this one computes with ") as error:
        to_bundle(path, tmp_path / "full", loss="mse", train=("full",))
    assert ("--train lora" in str(error.value)) == bool(branches and case != "DynamicQuantizeMatMul")
    assert "--train bitfit" in str(error.value)
    biases = to_bundle(path, tmp_path / "bitfit", loss="mse", train=("bitfit",)).manifest
    assert {p.name for p in biases.trainable} == {"b"} | ({"bias"} if case == "MatMulNBits" else set())
    assert biases.elements == elements
    assert {"w", "s"} <= {row.name for row in biases.frozen}
    if branches:
        lora = to_bundle(path, tmp_path / "lora", loss="mse", target_modules=("w",)).manifest
        assert [branch.weight for branch in lora.branches] == branches
        assert lora.elements == elements + sum(np.prod(p.shape) for p in lora.trainable)
    else:
        with pytest.raises(InputError, match=r"no linear layer for a LoRA branch: .*: use --train bitfit"):
            to_bundle(path, tmp_path / "lora", loss="mse")


def test_a_fused_bert(tmp_path):
    """onnxruntime's own optimizer on a classifier of transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from onnxruntime.transformers import optimizer

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, num_labels=3, return_dict=False,
    )  # fmt: skip
    module = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # else equal ones are one tensor of the file
    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "sequence"} for name in names} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (ids, ids, torch.zeros_like(ids)), str(tmp_path / "plain.onnx"), input_names=names,
            output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        optimized = optimizer.optimize_model(
            str(tmp_path / "plain.onnx"), model_type="bert", num_heads=2, hidden_size=32, opt_level=0
        )
        optimized.save_model_to_file(str(tmp_path / "m.onnx"))
    bundle = to_bundle(tmp_path / "m.onnx", tmp_path / "full", loss="cross-entropy", train=("full",))
    manifest = bundle.manifest
    assert manifest.trained_elements == sum(p.numel() for p in module.parameters())
    assert manifest.elements == manifest.trained_elements
    groups = {p.name: (p.group, p.decay) for p in manifest.parameters}
    assert groups["Attention_1_qkv_weight"] == ("attention", True)
    assert groups["Attention_1_qkv_bias"] == ("bias", False)
    assert groups["bert.embeddings.word_embeddings.weight"] == ("embedding", True)
    assert sum(group == "norm" for group, _ in groups.values()) == 2 * 5
    assert sum(group == "bias" for group, _ in groups.values()) == 2 * 4 + 1
    follows(bundle, tmp_path / "m.onnx")
    said = []
    lora = to_bundle(tmp_path / "m.onnx", tmp_path / "lora", loss="cross-entropy", say=said.append).manifest
    assert len(lora.branches) == 2 * 3 + 1
    assert said == [
        "no LoRA branch lies beside Attention_0_qkv_weight, Attention_1_qkv_weight (read by Attention), as it needs "
        "the product of an activation and one stored matrix of two axes: name them in --train to train them"
    ]


def test_layers_without_names_are_taken_apart(tmp_path):
    tensors = {"w": normal((8, 8), 1), "b": normal(8, 2), "v": normal((8, 3), 3), "c": normal(3, 4)}
    fused = partial(onnx.helper.make_node, "FusedGemm", domain="com.microsoft", activation="Relu")
    nodes = [fused(["x", "w", "b"], ["h"]), fused(["h", "v", "c"], ["y"])]
    proto = model(nodes, [value("x", ["n", 8])], [value("y", ["n", 3])], tensors)
    proto.opset_import.add(domain="com.microsoft", version=1)
    path = save(proto, tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "b", loss="mse", train=("full",))
    assert {p.name for p in bundle.manifest.trainable} == set(tensors)
    follows(bundle, path)
