"""Small networks as ONNX files, and data for them."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, WIDTH = 3, 6


def mlp(path, *, hidden=16, seed=0):
    """x [batch, 6] -> logits [batch, 3]; fc1 and fc2 in torch's layout."""
    rng = np.random.default_rng(seed)
    tensors = {
        "fc1.weight": rng.standard_normal((hidden, WIDTH)) * 0.5,
        "fc1.bias": rng.standard_normal(hidden) * 0.1,
        "fc2.weight": rng.standard_normal((CLASSES, hidden)) * 0.3,
        "fc2.bias": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], transB=1),
        helper.make_node("Tanh", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "fc2.weight", "fc2.bias"], ["logits"], transB=1),
    ]
    return _saved(path, nodes, tensors)


def deep(path, *, layers=4, hidden=12, seed=0):
    """x [batch, 6] -> logits [batch, 3]; layers.N of two matrices called as those of attention are."""
    rng = np.random.default_rng(seed)
    tensors = {"embed.weight": rng.standard_normal((hidden, WIDTH)) * 0.4}
    nodes = [helper.make_node("Gemm", ["x", "embed.weight"], ["h0"], transB=1)]
    for i in range(layers):
        for name in ("query", "value"):
            tensors[f"layers.{i}.{name}.weight"] = rng.standard_normal((hidden, hidden)) * 0.15
        tensors[f"layers.{i}.value.bias"] = np.zeros(hidden)
        query, value = f"layers.{i}.query.weight", f"layers.{i}.value"
        nodes += [
            helper.make_node("Gemm", [f"h{i}", query], [f"q{i}"], transB=1),
            helper.make_node("Tanh", [f"q{i}"], [f"a{i}"]),
            helper.make_node("Gemm", [f"a{i}", f"{value}.weight", f"{value}.bias"], [f"v{i}"], transB=1),
            helper.make_node("Add", [f"h{i}", f"v{i}"], [f"h{i + 1}"]),
        ]
    tensors["head.weight"] = rng.standard_normal((CLASSES, hidden)) * 0.3
    nodes.append(helper.make_node("Gemm", [f"h{layers}", "head.weight"], ["logits"], transB=1))
    return _saved(path, nodes, tensors)


def _saved(path, nodes, tensors):
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def rows(path, count, seed=0):
    """Linearly separable rows as jsonl, the graph's input by name."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, WIDTH)).round(4)
    labels = (x @ np.random.default_rng(99).standard_normal((WIDTH, CLASSES))).argmax(axis=1)
    lines = [json.dumps({"x": list(row), "label": int(label)}) for row, label in zip(x, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
