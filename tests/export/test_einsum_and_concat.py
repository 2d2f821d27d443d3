"""Layers whose matrix an Einsum multiplies, and layers whose matrix is joined of several."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoedge.export import to_bundle
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.linears import find_linears
from zoedge.options import TuneOptions
from zoedge.runtime.evaluate import predict
from zoedge.runtime.outputs.verbs import merge
from zoedge.runtime.tune import tune

node = helper.make_node


def network(path, middle, shapes):
    """x [batch, 6] -> tanh [batch, 16] -> ``middle`` [batch, 12] -> logits [batch, 3]; "a" is what middle reads."""
    rng = np.random.default_rng(0)
    shapes = {"in.weight": (16, 6), "in.bias": (16,), **shapes, "head.weight": (3, 12), "head.bias": (3,)}
    nodes = [
        node("Gemm", ["x", "in.weight", "in.bias"], ["h"], transB=1),
        node("Tanh", ["h"], ["a"]),
        *middle,
        node("Tanh", ["b"], ["t"]),
        node("Gemm", ["t", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    tensors = [
        numpy_helper.from_array((0.4 * rng.normal(size=s)).astype(np.float32), n) for n, s in shapes.items()
    ]
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])]
        for name, width in (("x", 6), ("logits", 3))
    ]
    graph = helper.make_graph(nodes, "m", *ports, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def einsum(path, equation, shape, *, first=False):
    read = ["w.weight", "a"] if first else ["a", "w.weight"]
    return network(path, [node("Einsum", read, ["b"], equation=equation)], {"w.weight": shape})


def joined(path):
    parts = ("q", "k", "v")
    middle = [
        node("Concat", [f"{part}.weight" for part in parts], ["matrix"], axis=1),
        node("Concat", [f"{part}.bias" for part in parts], ["offset"], axis=0),
        node("MatMul", ["a", "matrix"], ["product"]),
        node("Add", ["product", "offset"], ["b"]),
    ]
    shapes = {f"{p}.weight": (16, 4) for p in parts} | {f"{p}.bias": (4,) for p in parts}
    return network(path, middle, shapes)


LAYERS = {
    "as stored": ("bi,io->bo", (16, 12), False),
    "transposed": ("bi,oi->bo", (12, 16), False),
    "matrix first": ("oi, ...i -> ...o", (12, 16), True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_an_einsum_with_one_matrix_is_a_linear_layer(tmp_path, kind):
    equation, shape, first = LAYERS[kind]
    bundle = to_bundle(
        einsum(tmp_path / "m.onnx", equation, shape, first=first), tmp_path / "bundle", task="classification"
    )
    assert [branch.module for branch in bundle.manifest.branches] == ["in", "w"]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(48, 6)).astype(np.float32)
    rows = {"x": x, "label": (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)}
    run = tune(bundle, rows, tmp_path / "run", TuneOptions(steps=5, lr=0.05, batch_size=8, val_size=0.0))
    found = list(predict(run, data=rows))
    merge(run, tmp_path / "merged")
    logits = (
        ort.InferenceSession(tmp_path / "merged" / "model.onnx").run(None, {"x": x})[0].astype(np.float64)
    )
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([row["score"] for row in found], odds.max(axis=1), rtol=1e-5)
    before = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})[0]
    assert np.abs(before - logits).max() > 1e-2  # the branches moved


@pytest.mark.parametrize(
    "equation",
    ["bi,io->ob", "bi,io->b", "bi,bo->bo", "bi,io->bio", "ib,io->bo", "bi,oo->bo", "io,bi->oi", "bi,io"],
)
def test_other_products_are_no_linear_layers(equation):
    graph = helper.make_graph(
        [node("Einsum", ["x", "w"], ["y"], equation=equation)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")],
    )
    assert find_linears(Graph(helper.make_model(graph))) == []


def test_a_layer_without_a_branch_is_named_with_what_reads_it(tmp_path):
    three = [
        node("Einsum", ["a", "w.weight"], ["heads"], equation="bi,ihk->bhk"),
        node("Flatten", ["heads"], ["b"]),
    ]
    said = []
    path = network(tmp_path / "m.onnx", three, {"w.weight": (16, 3, 4)})
    to_bundle(path, tmp_path / "a", task="classification", say=said.append)
    assert any(text.startswith("no LoRA branch lies beside w.weight (read by Einsum), as") for text in said)
    said.clear()
    bundle = to_bundle(joined(path), tmp_path / "b", task="classification", say=said.append)
    told = "no LoRA branch lies beside k.weight, q.weight, v.weight (read by Concat), as"
    assert any(text.startswith(told) for text in said)
    assert [branch.module for branch in bundle.manifest.branches] == ["in"]


def test_joined_tensors_are_what_the_joined_one_is(tmp_path):
    rows = to_bundle(
        joined(tmp_path / "m.onnx"), tmp_path / "b", task="classification", train=("bitfit",)
    ).manifest
    found = {row.name: (row.group, row.decay, row.trainable) for row in rows.parameters}
    for part in "qkv":
        assert found[f"{part}.bias"] == ("bias", False, True)
        assert found[f"{part}.weight"] == ("other", True, False)
