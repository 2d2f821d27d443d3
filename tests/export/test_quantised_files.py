"""Files that come quantised: LoRA branches beside their matrices, or an error that names the operator."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from safetensors.numpy import load_file

from tests.builders.models import model, node, normal, run, save, value
from tests.builders.quantised import QUANTISED, quantised
from zoedge.adapters import lora_branches
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.sessions import clips_sums

SCALE, ZERO = np.array(0.02, np.float32), np.array(0, np.int8)
PER_CHANNEL = {"ws": np.linspace(0.01, 0.02, 16, dtype=np.float32), "wz": np.zeros(16, np.int8)}
Q = np.random.default_rng(4).integers(-100, 100, (32, 16)).astype(np.int8)  # [in, out]

# weight: nodes from what is stored to "w" [in, out], and the tensors
WEIGHTS = {
    "per tensor": ([node("DequantizeLinear", "fc.weight_quantized ws wz", "w")],
                   {"fc.weight_quantized": Q, "ws": SCALE, "wz": ZERO}),
    "per channel": ([node("DequantizeLinear", "fc.weight_quantized ws wz", "w", axis=1)],
                    {"fc.weight_quantized": Q, **PER_CHANNEL}),
    "float weight, rounded by the graph": (
        [node("QuantizeLinear", "fc.weight ws wz", "wq"), node("DequantizeLinear", "wq ws wz", "w")],
        {"fc.weight": normal((32, 16), 4), "ws": SCALE, "wz": ZERO}),
    "float weight, rounded per channel": (
        [node("QuantizeLinear", "fc.weight ws wz", "wq", axis=1), node("DequantizeLinear", "wq ws wz", "w", axis=1)],
        {"fc.weight": normal((32, 16), 4), **PER_CHANNEL}),
}  # fmt: skip


def qdq(weight, *, activations, gemm):
    nodes, tensors = WEIGHTS[weight]
    tensors = {**tensors, "as": np.array(0.05, np.float32), "az": np.array(3, np.int8)}
    x = "x"
    if activations:
        x, nodes = (
            "xd",
            [node("QuantizeLinear", "x as az", "xq"), node("DequantizeLinear", "xq as az", "xd"), *nodes],
        )
    nodes = [*nodes, node("Gemm" if gemm else "MatMul", f"{x} w", "y")]
    used = {name for each in nodes for name in each.input}
    return model(
        nodes,
        [value("x", ["n", 32])],
        [value("y", ["n", 16])],
        {name: array for name, array in tensors.items() if name in used},
    )


def exported(proto, folder):
    bundle = to_bundle(save(proto, folder / "m.onnx"), folder / "bundle", loss="mse", target_modules=["fc"])
    (branch,) = lora_branches(bundle.manifest)
    buffers = load_buffers(bundle, Cpu())
    for name in (branch.a, branch.b):
        buffers[name][...] = normal(buffers[name].shape, 8)
    return bundle, branch, buffers


@pytest.mark.parametrize("gemm", [False, True], ids=["MatMul", "Gemm"])
@pytest.mark.parametrize("activations", [False, True], ids=["weights only", "activations too"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_branch_beside_a_dequantised_matrix(tmp_path, weight, activations, gemm):
    proto = qdq(weight, activations=activations, gemm=gemm)
    bundle, branch, buffers = exported(proto, tmp_path)
    assert (branch.module, branch.transposed) == ("fc", True)
    x = normal((5, 32), 3)
    seen = 0.05 * np.clip(np.rint(x / np.float32(0.05)), -131, 124) if activations else x
    delta = branch.alpha / branch.rank * (seen @ buffers[branch.a].T) @ buffers[branch.b].T
    given = {"x": x, "labels": np.zeros((5, 16), np.float32)}
    logits = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given, ["logits"])[
        "logits"
    ]
    np.testing.assert_allclose(logits, run(proto, {"x": x})["y"] + delta, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activations", [False, True], ids=["weights only", "activations too"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_branch_stays_a_product_beside_a_quantised_matrix(tmp_path, weight, activations):
    proto = qdq(weight, activations=activations, gemm=False)
    bundle, _branch, buffers = exported(proto, tmp_path)
    reason = "the graph rounds to integers" if "float" in weight else "is stored as int8"
    assert bundle.manifest.branches[0].apart == reason
    check_merged(bundle, buffers, normal((5, 32), 3), tmp_path)
    stored = "fc.weight" if "float" in weight else "fc.weight_quantized"
    kept = load_file(tmp_path / "merged" / "weights.safetensors")[stored]
    np.testing.assert_array_equal(kept, WEIGHTS[weight][1][stored])


@pytest.mark.parametrize("form", QUANTISED)
def test_a_lone_quantised_layer_is_merged(tmp_path, form):
    bundle, _branch, buffers = exported(quantised(form), tmp_path)
    assert bundle.manifest.branches[0].apart.startswith("is stored as ")
    check_merged(bundle, buffers, normal((5, 32), 3), tmp_path)


def check_merged(bundle, buffers, x, folder):
    """Stock onnxruntime computes with the merged file what the run did, and the branch matters."""
    write_merged(bundle, {name: buffer.copy() for name, buffer in buffers.items()}, folder / "merged")
    given = {"x": x, "labels": np.zeros((len(x), 16), np.float32)}
    logits = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given, ["logits"])[
        "logits"
    ]
    merged, before = (
        ort.InferenceSession(folder / name / "model.onnx", providers=["CPUExecutionProvider"]).run(
            ["y"], {"x": x}
        )[0]
        for name in ("merged", "bundle")
    )
    np.testing.assert_allclose(merged, logits, rtol=1e-3, atol=1e-3)
    assert np.abs(merged - before).max() > 0.1


def test_four_bits_in_blocks(tmp_path):
    """onnxruntime makes a MatMulNBits of it, whose packed form computes in another precision."""
    packed = np.random.default_rng(1).integers(0, 256, 32 * 16 // 2).astype(np.uint8)
    proto = model(
        [
            node("DequantizeLinear", "fc.weight_DQ_Q4 ws", "w", axis=0, block_size=16),
            node("MatMul", "x w", "y"),
        ],
        [value("x", ["n", 32])],
        [value("y", ["n", 16])],
        {"ws": np.full((2, 16), 0.05, np.float32)},
        opset=21,
        ir_version=10,
    )
    proto.graph.initializer.append(
        TensorProto(
            name="fc.weight_DQ_Q4", data_type=TensorProto.INT4, dims=[32, 16], raw_data=packed.tobytes()
        )
    )
    _, branch, _ = exported(proto, tmp_path)
    assert branch.module == "fc"


def test_the_head_of_a_quantised_file_is_no_default_target(tmp_path):
    nodes = [
        node("DequantizeLinear", "fc.weight_quantized ws wz", "w"),
        node("MatMul", "x w", "h"),
        node("QuantizeLinear", "h ws wz", "hq"),
        node("DequantizeLinear", "hq ws wz", "hd"),
        node("DequantizeLinear", "out.weight_quantized ws wz", "v"),
        node("MatMul", "hd v", "z"),
        node("QuantizeLinear", "z ws wz", "zq"),
        node("DequantizeLinear", "zq ws wz", "y"),
    ]
    tensors = {"fc.weight_quantized": Q, "out.weight_quantized": Q[:16, :3].copy(), "ws": SCALE, "wz": ZERO}
    proto = model(nodes, [value("x", ["n", 32])], [value("y", ["n", 3])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", task="classification")
    assert [branch.module for branch in bundle.manifest.branches] == ["fc"]


def test_a_layer_among_integers_is_refused_by_name(tmp_path):
    tensors = {"w": Q, "s": SCALE, "z": ZERO}
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearMatMul", "xq s z w s z s z", "q"),
        node("Concat", "q q", "r", axis=1),
        node("DequantizeLinear", "r s z", "y"),
    ]
    proto = model(nodes, [value("x", ["n", 32])], [value("y", ["n", 32])], tensors)
    integers, clipped = (
        "LoRA branch: what QLinearMatMul makes are integers",
        "whose sums this processor clips",
    )
    with pytest.raises(InputError, match=clipped if clips_sums() else integers):
        to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse")
    assert not (tmp_path / "bundle").exists()


def test_a_quantised_head_alone_is_no_layer_among_integers(tmp_path):
    nodes = [
        node("DynamicQuantizeLinear", "x", "xq xs xz"),
        node("MatMulInteger", "xq fc.weight_quantized xz wz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "xs ws", "s"),
        node("Mul", "f s", "y"),
    ]
    tensors = {"fc.weight_quantized": Q, "ws": SCALE, "wz": ZERO}
    proto = model(nodes, [value("x", ["n", 32])], [value("y", ["n", 16])], tensors)
    with pytest.raises(
        InputError, match=r"no linear layer for a LoRA .* use --train lora --target-modules fc$"
    ):
        to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse")
