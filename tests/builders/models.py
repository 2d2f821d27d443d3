"""Small ONNX models made by hand, with NumPy doing the same arithmetic."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoedge.names import given, in_graph, plain

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), name=attrs.pop("name", ""), **attrs)


def model(nodes, inputs, outputs, tensors, *, opset=18, domains=(), ir_version=8):
    initializers = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def save(proto, path, **options):
    onnx.save(proto, path, **options)
    return path


def run_ours(session, inputs):
    """Run one of our graphs in stock onnxruntime, with plain names outside; return every output."""
    optional = {i.name for i in session.get_overridable_initializers()}
    feeds = {i.name: given(inputs, i.name) for i in session.get_inputs()}
    feeds |= {name: array for name, array in inputs.items() if name in optional}
    if in_graph("predict") in optional:
        feeds[in_graph("predict")] = np.array(True)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(map(plain, names), session.run(names, feeds), strict=True))


def normal(shape, seed, scale=0.5):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def mlp_tensors():
    return {
        "blocks.0.fc.weight": normal((16, 8), 1),
        "blocks.0.fc.bias": normal(16, 2),
        "blocks.0.norm.weight": 1 + normal(16, 3),
        "blocks.0.norm.bias": normal(16, 4),
        "blocks.1.fc.weight": normal((16, 12), 5),  # stored as [in, out]
        "blocks.1.fc.bias": normal(12, 6),
        "classifier.weight": normal((3, 12), 7),
        "classifier.bias": normal(3, 8),
    }


def mlp(*, opset=18, batch="n", ir_version=8, tail=()):
    """x [n, 8] -> Gemm, Relu, LayerNormalization, MatMul + Add, Relu, Gemm -> y [n, 3]."""
    nodes = [
        node("Gemm", "x blocks.0.fc.weight blocks.0.fc.bias", "a", transB=1),
        node("Relu", "a", "b"),
        node("LayerNormalization", "b blocks.0.norm.weight blocks.0.norm.bias", "c")
        if opset >= 17
        else node("Mul", "b blocks.0.norm.weight", "c"),
        node("MatMul", "c blocks.1.fc.weight", "d"),
        node("Add", "d blocks.1.fc.bias", "e"),
        node("Relu", "e", "f"),
        node("Gemm", "f classifier.weight classifier.bias", "y", transB=1),
        *tail,
    ]
    out = tail[-1].output[0] if tail else "y"
    tensors = mlp_tensors()
    if opset < 17:
        del tensors["blocks.0.norm.bias"]
    return model(
        nodes, [value("x", [batch, 8])], [value(out, [batch, 3])], tensors, opset=opset, ir_version=ir_version
    )


def mlp_numpy(tensors, x):
    """Return (logits, features) of ``mlp`` in float64."""
    t = {name: array.astype(np.float64) for name, array in tensors.items()}
    hidden = np.maximum(x @ t["blocks.0.fc.weight"].T + t["blocks.0.fc.bias"], 0)
    centred = hidden - hidden.mean(1, keepdims=True)
    normed = centred / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    hidden = normed * t["blocks.0.norm.weight"] + t["blocks.0.norm.bias"]
    features = np.maximum(hidden @ t["blocks.1.fc.weight"] + t["blocks.1.fc.bias"], 0)
    return features @ t["classifier.weight"].T + t["classifier.bias"], features


def convnet(*, classes=4, head=True):
    """pixels [batch, 3, 8, 8] -> Conv, BatchNormalization, Relu, Conv, GlobalAveragePool, Flatten, Gemm."""
    tensors = {
        "conv1.weight": normal((6, 3, 3, 3), 1),
        "bn.weight": 1 + normal(6, 2),
        "bn.bias": normal(6, 3),
        "bn.running_mean": normal(6, 4),
        "bn.running_var": 1 + np.abs(normal(6, 5)),
        "conv2.weight": normal((8, 6, 3, 3), 6),
        "conv2.bias": normal(8, 7),
    }
    nodes = [
        node("Conv", "pixels conv1.weight", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a bn.weight bn.bias bn.running_mean bn.running_var", "b"),
        node("Relu", "b", "c"),
        node("Conv", "c conv2.weight conv2.bias", "d", strides=[2, 2]),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
    ]
    if head:
        tensors |= {"fc.weight": normal((classes, 8), 8), "fc.bias": normal(classes, 9)}
        nodes.append(node("Gemm", "f fc.weight fc.bias", "logits", transB=1))
    else:
        nodes.append(node("Identity", "f", "logits"))
        classes = 8
    return model(nodes, [value("pixels", ["batch", 3, 8, 8])], [value("logits", ["batch", classes])], tensors)


def language_model(*, cap=False, head="tied"):
    """ids [batch, sequence] -> embedding, one mixing layer, norm, vocabulary head (11 words)."""
    words, width = 11, 6
    tensors = {
        "embed.weight": normal((words, width), 1, 1.0),
        "layers.0.mlp.weight": normal((width, width), 2),
        "layers.0.mlp.bias": normal(width, 3),
        "norm.weight": 1 + normal(width, 4),
        "norm.bias": normal(width, 5),
        "head.bias": normal(words, 6),
    }
    nodes = [
        node("Gather", "embed.weight input_ids", "h"),
        node("Transpose", "layers.0.mlp.weight", "w", perm=[1, 0]),
        node("MatMul", "h w", "m"),
        node("Add", "m layers.0.mlp.bias", "mb"),
        node("Tanh", "mb", "t"),
        node("Add", "h t", "r"),
        node("LayerNormalization", "r norm.weight norm.bias", "hidden"),
    ]
    if head == "tied":
        nodes += [node("Transpose", "embed.weight", "ht", perm=[1, 0]), node("MatMul", "hidden ht", "p")]
    elif head == "reshaped":  # a head that no walk finds
        tensors |= {"flat": np.array([-1, width]), "shape": np.array([2, -1, words])}
        nodes += [
            node("Reshape", "hidden flat", "hf"),
            node("Gemm", "hf embed.weight", "pf", transB=1),
            node("Reshape", "pf shape", "p"),
        ]
    nodes.append(node("Add", "p head.bias", "q"))
    if cap:
        tensors["cap"] = np.array(2.0, np.float32)
        nodes += [node("Div", "q cap", "q1"), node("Tanh", "q1", "q2"), node("Mul", "q2 cap", "logits")]
    else:
        nodes.append(node("Identity", "q", "logits"))
    batch = 2 if head == "reshaped" else "batch"
    return model(
        nodes,
        [value("input_ids", [batch, "sequence"], INT64)],
        [value("logits", [batch, "sequence", words])],
        tensors,
    )


def run(proto, inputs, outputs=None):
    """Run a model that holds its data."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = outputs or [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
