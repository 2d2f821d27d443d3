"""Which layers get integer matrices, and that the graphs still compute the model."""

from collections import Counter

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from tests.builders.models import convnet, mlp, mlp_numpy, mlp_tensors, model, node, normal, run, save, value
from zoedge import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

X = normal((6, 8), 99)
OPS = {"int8": "MatMulIntegerToFloat", "int4": "MatMulNBits"}


def make(tmp_path, proto=None, **options):
    told = []
    path = save(mlp() if proto is None else proto, tmp_path / "m.onnx")
    return to_bundle(path, tmp_path / "bundle", loss="cross-entropy", say=told.append, **options), told


def graph_of(bundle, name):
    return onnx.load(bundle.path(name), load_external_data=False).graph


def attention():
    """Three layers that read the same input, by Gemm and MatMul, and a head."""
    nodes = [
        node("Gemm", "x q.weight q.bias", "q", transB=1),
        node("MatMul", "x k.weight", "k"),
        node("MatMul", "x v.weight", "v0"),
        node("Add", "v.bias v0", "v"),
        node("Add", "q k", "qk"),
        node("Add", "qk v", "h"),
        node("Tanh", "h", "t"),
        node("Gemm", "t head.weight head.bias", "y", transB=1),
    ]
    tensors = {
        "q.weight": normal((40, 8), 1),
        "q.bias": normal(40, 2),
        "k.weight": normal((8, 40), 3),
        "v.weight": normal((8, 40), 4),
        "v.bias": normal(40, 5),
        "head.weight": normal((3, 40), 6),
        "head.bias": normal(3, 7),
    }
    return model(nodes, [value("x", ["n", 8])], [value("y", ["n", 3])], tensors)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_graphs_compute_the_model_nearly(tmp_path, kind):
    bundle, told = make(tmp_path, quantize=kind, train=("lora", "head", "bitfit"))
    logits, _ = mlp_numpy(mlp_tensors(), X)
    inputs = {"x": X, "labels": np.zeros(6, np.int64)}
    got = Engine(bundle.path("loss.onnx"), load_buffers(bundle, Cpu()), device=Cpu()).run(inputs)["logits"]
    assert 1e-4 < np.abs(got - logits).max() < 0.3 * np.abs(logits).max()
    for name in ("model.onnx", "model_adapters.onnx", "model_merged.onnx"):
        np.testing.assert_allclose(
            Engine(bundle.path(name), {}, device=Cpu()).run({"x": X})["y"], got, atol=1e-5
        )
    assert told[0].startswith(f"{kind}: 2 matrices of 320 elements; what the model computes is off by ")
    assert bundle.manifest.quantization.noise < 0.05


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_every_graph_reads_integers_and_the_float_matrix_is_gone(tmp_path, kind):
    bundle, _ = make(tmp_path, quantize=kind)
    stored = load_file(bundle.path("weights.safetensors"))
    for name in ("blocks.0.fc", "blocks.1.fc"):
        assert f"{name}.weight" not in stored
        assert stored[f"{name}.weight_quantized"].dtype == (np.int8 if kind == "int8" else np.uint8)
        assert stored[f"{name}.weight_scale"].dtype == np.float32
    assert stored["classifier.weight"].dtype == np.float32  # a classifier's head is small
    for name in ("model.onnx", "loss.onnx", "model_adapters.onnx", "activations.onnx"):
        ops = Counter(n.op_type for n in graph_of(bundle, name).node)
        assert ops[OPS[kind]] == 2, name


def test_layers_that_read_one_activation_share_its_rounding(tmp_path):
    bundle, _ = make(tmp_path, attention(), quantize="int8")
    ops = Counter(n.op_type for n in graph_of(bundle, "loss.onnx").node)
    assert (ops["DynamicQuantizeLinear"], ops["MatMulIntegerToFloat"]) == (1, 3)


def test_biases_are_added_by_the_layer_and_stay_trainable(tmp_path):
    bundle, _ = make(tmp_path, attention(), quantize="int8", train=("bitfit",))
    assert {p.name for p in bundle.manifest.trainable} == {"q.bias", "v.bias", "head.bias"}
    nodes = {n.output[0]: n for n in graph_of(bundle, "model.onnx").node}
    assert list(nodes["q"].input)[-1] == "q.bias"
    assert list(nodes["v"].input)[-1] == "v.bias"


def test_modules_are_named_as_without_rounding(tmp_path):
    plain, _ = make(tmp_path, attention())
    (tmp_path / "other").mkdir()
    rounded, _ = make(tmp_path / "other", attention(), quantize="int8")
    assert [b.module for b in rounded.manifest.branches] == [b.module for b in plain.manifest.branches]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_equal_weights_give_equal_bits_so_that_eps_0_gives_g_0(tmp_path, kind):
    bundle, _ = make(tmp_path, quantize=kind, train=("lora", "norm"))
    buffers = load_buffers(bundle, Cpu())
    engine = Engine(bundle.path("loss.onnx"), buffers, device=Cpu())
    inputs = {"x": X, "labels": np.zeros(6, np.int64)}
    first = engine.run(inputs)["loss"]
    kept = {name: buffer.copy() for name, buffer in buffers.items()}
    for buffer in buffers.values():
        buffer += 0.3
    assert engine.run(inputs)["loss"].tobytes() != first.tobytes()
    for name, buffer in buffers.items():
        buffer[...] = kept[name]
    assert engine.run(inputs)["loss"].tobytes() == first.tobytes()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_merging_keeps_the_branches_beside_the_integers(tmp_path, kind):
    bundle, _ = make(tmp_path, quantize=kind, train=("lora", "head"))
    values = {p.name: normal(p.shape, i) for i, p in enumerate(bundle.manifest.trainable)}
    buffers = load_buffers(bundle, Cpu())
    for name, buffer in buffers.items():
        buffer[...] = values[name]
    wanted = Engine(bundle.path("loss.onnx"), buffers, device=Cpu()).run(
        {"x": X, "labels": np.zeros(6, np.int64)}
    )["logits"]
    write_merged(bundle, values, tmp_path / "merged")
    engine = Engine(tmp_path / "merged" / "model.onnx", {}, device=Cpu())
    np.testing.assert_allclose(engine.run({"x": X})["y"], wanted, rtol=1e-4, atol=1e-4)
    floats = load_file(tmp_path / "merged" / "model.safetensors")
    assert {n: a.shape for n, a in floats.items()} == {n: a.shape for n, a in mlp_tensors().items()}
    np.testing.assert_allclose(mlp_numpy(floats, X)[0], wanted, atol=0.1 * np.abs(wanted).max())
    inputs = {value.name for value in graph_of(bundle, "model_merged.onnx").input}
    assert inputs == {"x"}


@pytest.mark.parametrize("entry", ["full", "blocks.1.fc.weight", "fc"])
def test_a_rounded_matrix_cannot_be_trained(tmp_path, entry):
    with pytest.raises(
        InputError, match=f"--train {entry} names .*which --quantize int8 rounds.*--train lora"
    ):
        make(tmp_path, quantize="int8", train=(entry,))


def test_a_quantised_file_is_not_rounded_again(tmp_path):
    bundle, _ = make(tmp_path, quantize="int4")
    with pytest.raises(InputError, match="quantised already"):
        to_bundle(bundle.path("model.onnx"), tmp_path / "b", loss="cross-entropy", quantize="int8")


def test_a_network_without_linear_layers_is_refused(tmp_path):
    with pytest.raises(InputError, match="finds no frozen float32 matrix"):
        make(tmp_path, convnet(), quantize="int8", train=("head",))


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="--quantize int9 is none of none, int8, int4"):
        make(tmp_path, quantize="int9")


def test_the_source_runs_as_it_did():
    np.testing.assert_allclose(
        run(mlp(), {"x": X})["y"], mlp_numpy(mlp_tensors(), X)[0], rtol=1e-4, atol=1e-5
    )
