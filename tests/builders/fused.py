"""Graphs of onnxruntime's fused operators by hand: one for each, with what training should make of its tensors."""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.builders.models import INT64, normal, value

MICROSOFT = "com.microsoft"
INT32 = onnx.TensorProto.INT32
WIDTH, HEADS = 8, 2


class Case(NamedTuple):
    """A file; ``roles`` are name -> (group, decay) of what ``full`` trains, ``frozen`` name -> reason."""

    model: onnx.ModelProto
    roles: dict[str, tuple[str, bool]]
    frozen: dict[str, str] | None = None


def fused(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), domain=MICROSOFT, **attrs)


def plain(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def build(nodes, inputs, tensors, *, out=("n", WIDTH), name="y"):
    held = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, [value(name, list(out))], held)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


ROWS = [value("x", ["n", WIDTH])]
TOKENS = [value("x", ["n", 5, WIDTH])]
SEQUENCE = ("n", 5, WIDTH)
MATRIX, BIAS, NORM = ("other", True), ("bias", False), ("norm", False)
ATTENTION = ("attention", True)


def fused_matmul():
    tensors = {"w": normal((WIDTH, WIDTH), 1), "b": normal(WIDTH, 2)}
    nodes = [fused("FusedMatMul", "x w", "p", transB=1), plain("Add", "p b", "y")]
    return Case(build(nodes, ROWS, tensors), {"w": MATRIX, "b": BIAS})


def scaled_matmul():
    nodes = [fused("FusedMatMul", "x w", "y", alpha=0.5)]
    return Case(build(nodes, ROWS, {"w": normal((WIDTH, WIDTH), 1)}), {"w": MATRIX})


def fused_gemm(activation, **settings):
    tensors = {"w": normal((WIDTH, WIDTH), 1), "b": normal(WIDTH, 2)}
    nodes = [fused("FusedGemm", "x w b", "y", transB=1, activation=activation, **settings)]
    return Case(build(nodes, ROWS, tensors), {"w": MATRIX, "b": BIAS})


def gelus():
    tensors = {"w": normal((WIDTH, WIDTH), 1), "b": normal(WIDTH, 2), "c": normal(WIDTH, 3)}
    nodes = [plain("MatMul", "x w", "p"), fused("BiasGelu", "p b", "q"), fused("FastGelu", "q c", "y")]
    return Case(build(nodes, ROWS, tensors), {"w": MATRIX, "b": BIAS, "c": BIAS})


def embedded():
    tensors = {
        "words": normal((11, WIDTH), 1),
        "places": normal((9, WIDTH), 2),
        "kinds": normal((2, WIDTH), 3),
        "g": 1 + normal(WIDTH, 4),
        "h": normal(WIDTH, 5),
    }
    nodes = [
        plain("Cast", "ids", "ids32", to=INT32),
        plain("Cast", "types", "types32", to=INT32),
        fused("EmbedLayerNormalization", "ids32 types32 words places kinds g h", "y m"),
    ]
    inputs = [value("ids", ["n", 5], INT64), value("types", ["n", 5], INT64)]
    roles = dict.fromkeys(("words", "places", "kinds"), ("embedding", True)) | dict.fromkeys("gh", NORM)
    return Case(build(nodes, inputs, tensors, out=SEQUENCE), roles)


def skipped():
    tensors = {
        "w": normal((WIDTH, WIDTH), 1),
        "g": 1 + normal(WIDTH, 2),
        "h": normal(WIDTH, 3),
        "b": normal(WIDTH, 4),
        "k": 1 + normal(WIDTH, 5),
        "c": normal(WIDTH, 6),
        "s": 1 + normal(WIDTH, 7),
    }
    nodes = [
        plain("MatMul", "x w", "p"),
        fused("SkipLayerNormalization", "p x g h b", "q"),
        fused("SkipSimplifiedLayerNormalization", "q x k c", "r"),
        plain("SimplifiedLayerNormalization", "r s", "y"),
    ]
    roles = {"w": MATRIX, "b": BIAS, "c": BIAS} | dict.fromkeys("ghks", NORM)
    return Case(build(nodes, TOKENS, tensors, out=SEQUENCE), roles)


def attention():
    tensors = {"qkv": normal((WIDTH, 3 * WIDTH), 1), "b": normal(3 * WIDTH, 2)}
    nodes = [fused("Attention", "x qkv b", "y", num_heads=HEADS)]
    return Case(build(nodes, TOKENS, tensors, out=SEQUENCE), {"qkv": ATTENTION, "b": BIAS})


def multi_head():
    tensors = {name: normal((WIDTH, WIDTH), i) for i, name in enumerate("qkv")} | {"b": normal(3 * WIDTH, 4)}
    nodes = [plain("MatMul", f"x {name}", f"{name}_x") for name in "qkv"]
    nodes.append(fused("MultiHeadAttention", "q_x k_x v_x b", "y", num_heads=HEADS))
    return Case(build(nodes, TOKENS, tensors, out=SEQUENCE), dict.fromkeys("qkv", MATRIX) | {"b": BIAS})


def rotated():
    angles = np.arange(16)[:, None] / 10.0 ** np.arange(2)
    tensors = {name: normal((WIDTH, WIDTH), i) for i, name in enumerate("qk")} | {
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "zero": np.zeros(1, np.int64),
    }
    nodes = [
        plain("MatMul", "x q", "q_x"),
        plain("MatMul", "x k", "k_x"),
        fused("RotaryEmbedding", "q_x zero cos sin", "q_r", num_heads=HEADS),
        fused("RotaryEmbedding", "k_x zero cos sin", "k_r", num_heads=HEADS),
        fused("MultiHeadAttention", "q_r k_r x", "y", num_heads=HEADS),
    ]
    frozen = dict.fromkeys(("cos", "sin"), "tables and masks")
    return Case(build(nodes, TOKENS, tensors, out=SEQUENCE), dict.fromkeys("qk", MATRIX), frozen)


def grouped():
    angles = np.arange(16)[:, None] / 10.0 ** np.arange(8)
    tensors = {
        "q": normal((WIDTH, 32), 1),
        "k": normal((WIDTH, 16), 2),
        "v": normal((WIDTH, 16), 3),
        "o": normal((32, WIDTH), 4),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "four": np.array(4, np.int32),
        "five": np.array(5, np.int32),
        "empty": np.array([1, 0, 16], np.int64),
    }
    nodes = [
        *(plain("MatMul", f"x {name}", f"{name}_x") for name in "qkv"),
        plain("Shape", "x", "sizes", start=0, end=1),
        plain("Concat", "sizes empty", "past_shape", axis=0),
        plain("ConstantOfShape", "past_shape", "past"),
        plain("Expand", "four sizes", "lengths"),
        fused(
            "GroupQueryAttention",
            "q_x k_x v_x past past lengths five cos sin",
            "a present_k present_v",
            num_heads=2,
            kv_num_heads=1,
            do_rotary=1,
        ),
        plain("MatMul", "a o", "y"),
    ]
    frozen = dict.fromkeys(("cos", "sin"), "tables and masks")
    return Case(build(nodes, TOKENS, tensors, out=SEQUENCE), dict.fromkeys("qkvo", MATRIX), frozen)


def convolved():
    tensors = {"w": normal((WIDTH, 3, 3, 3), 1), "b": normal(WIDTH, 2)}
    nodes = [
        fused("FusedConv", "p w b", "a", activation="Relu"),
        plain("GlobalAveragePool", "a", "m"),
        plain("Flatten", "m", "y"),
    ]
    inputs = [value("p", ["n", 3, 6, 6])]
    return Case(build(nodes, inputs, tensors), {"w": ("conv", True), "b": BIAS})


def recurrent(op, gates):
    hidden = 1
    tensors = {
        "w": normal((2, gates * hidden, WIDTH), 1),
        "r": normal((2, gates * hidden, hidden), 2),
        "b": normal((2, 2 * gates * hidden), 3),
    }
    roles = {"w": MATRIX, "r": MATRIX, "b": BIAS}
    if op == "LSTM":
        tensors["peep"] = normal((2, 3 * hidden), 4)
        roles["peep"] = MATRIX
    inputs = ["t", "w", "r", "b", *(["", "", "", "peep"] if op == "LSTM" else [])]
    nodes = [
        plain("Transpose", "x", "t", perm=[1, 0, 2]),
        helper.make_node(op, inputs, ["every", "last"], hidden_size=hidden, direction="bidirectional"),
        plain("Transpose", "last", "rows", perm=[1, 0, 2]),
        plain("Flatten", "rows", "f"),
        plain("Gemm", "f head bias", "y"),
    ]
    tensors |= {"head": normal((2, 1), 5), "bias": normal((1, 1), 6)}
    roles |= {"head": ("head", True), "bias": ("head", False)}
    return Case(build(nodes, TOKENS, tensors, out=("n", 1)), roles)


CASES = {
    "FusedMatMul": fused_matmul,
    "FusedMatMul with a factor": scaled_matmul,
    "FusedGemm": lambda: fused_gemm("Relu"),
    "FusedGemm with LeakyRelu": lambda: fused_gemm("LeakyRelu", activation_alpha=0.3),
    "BiasGelu": gelus,
    "EmbedLayerNormalization": embedded,
    "SkipLayerNormalization": skipped,
    "Attention": attention,
    "MultiHeadAttention": multi_head,
    "RotaryEmbedding": rotated,
    "GroupQueryAttention": grouped,
    "FusedConv": convolved,
    "LSTM": lambda: recurrent("LSTM", 4),
    "GRU": lambda: recurrent("GRU", 3),
    "RNN": lambda: recurrent("RNN", 1),
}


def nbits():
    """x w1 + b through MatMulNBits, then a float head; blocks of 16."""
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.integers(0, 256, (WIDTH, 1, 8), np.uint8),
        "s": np.abs(normal(WIDTH, 1, 0.1)),
        "b": normal(WIDTH, 2),
        "head": normal((WIDTH, 3), 3),
        "bias": normal(3, 4),
    }
    nodes = [
        fused("MatMulNBits", "x w s", "p", K=16, N=WIDTH, bits=4, block_size=16),
        plain("Relu", "p", "q"),
        plain("Gemm", "q head bias", "y"),
    ]
    nodes[0].input[:] = ["x", "w", "s", "", "", "b"]
    return build(nodes, [value("x", ["n", 16])], tensors, out=("n", 3))


def dynamic():
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.integers(-64, 65, (WIDTH, WIDTH)).astype(np.int8),
        "s": np.abs(normal(WIDTH, 1, 0.1)),
        "b": normal(WIDTH, 2),
    }
    node = fused("DynamicQuantizeMatMul", "x w s", "y")
    node.input[:] = ["x", "w", "s", "", "b"]
    return build([node], ROWS, tensors)


def rounded_attention():
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.integers(-64, 65, (WIDTH, 3 * WIDTH)).astype(np.int8),
        "s": np.array(0.01, np.float32),
        "b": normal(3 * WIDTH, 2),
        "zero": np.array(0, np.int8),
    }
    node = fused("QAttention", "x", "y", num_heads=HEADS)
    node.input[:] = ["x_q", "w", "b", "x_s", "s", "", "x_z", "zero"]
    nodes = [plain("DynamicQuantizeLinear", "x", "x_q x_s x_z"), node]
    return build(nodes, TOKENS, tensors, out=SEQUENCE)


ROUNDED = {"MatMulNBits": nbits, "DynamicQuantizeMatMul": dynamic, "QAttention": rounded_attention}
