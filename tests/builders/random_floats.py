"""Layers of floats for random graphs, as rows [n, 4] -> [n, 4] each: ONNX's own, fused ones, branches and bodies."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.builders.models import INT64, value
from tests.builders.random_draws import MICROSOFT, WIDTH

BOOL, INT32 = onnx.TensorProto.BOOL, onnx.TensorProto.INT32


def matmul(d, x):
    y = d.op("MatMul", x, d.held((WIDTH, WIDTH)))
    bias = [(WIDTH,), (1, WIDTH), (1,), (1, 1)][d.draw(0, 3)]
    return d.op("Add", *((y, d.held(bias)) if d.draw(0, 1) else (d.held(bias), y)))


def gemm(d, x):
    flip = d.draw(0, 1)
    bias = [(WIDTH,), (1, WIDTH), (1,), (1, 1)][d.draw(0, 3)]
    return d.op("Gemm", x, d.held((WIDTH, WIDTH)), d.held(bias), transB=flip)


def narrow(d, x):
    """Down to one value per row and back: biases of one number, added to a product that was squeezed."""
    one = d.op("Gemm", x, d.held((WIDTH, 1)), d.held((1,)))
    flat = d.op("Reshape", d.op("MatMul", one, d.held((1, 1))), d.fixed(np.array([-1])))
    return d.op(
        "MatMul",
        d.op("Unsqueeze", d.op("Add", flat, d.held((1,))), d.fixed(np.array([1]))),
        d.held((1, WIDTH)),
    )


def conv(d, x):
    image = d.op("Reshape", x, d.fixed(np.array([0, 1, 2, 2])))
    if d.draw(0, 1):
        made = d.op("Conv", image, d.held((2, 1, 1, 1)), d.held((2,)))
    else:
        made = d.op(
            "FusedConv", image, d.held((2, 1, 1, 1)), d.held((2,)), domain=MICROSOFT, activation="Tanh"
        )
    scaled = d.op(
        "BatchNormalization", made, d.held((2,)), d.held((2,)), d.fixed(np.full(2, 0.1, np.float32)),
        d.fixed(np.full(2, 1.5, np.float32)),
    )  # fmt: skip
    return d.op("MatMul", d.op("Flatten", scaled), d.held((8, WIDTH)))


def recurrent(d, x):
    op, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][d.draw(0, 2)]
    hidden, both = 2, d.draw(0, 1)
    ways = 1 + both
    steps = d.op("Transpose", d.op("Reshape", x, d.fixed(np.array([-1, 2, 2]))), perm=[1, 0, 2])
    weights = [
        d.held((ways, gates * hidden, 2)), d.held((ways, gates * hidden, hidden)), d.held((ways, 2 * gates * hidden)),
    ]  # fmt: skip
    given = [
        steps,
        *weights,
        *(["", "", "", d.held((ways, 3 * hidden))] if op == "LSTM" and d.draw(0, 1) else []),
    ]
    every = d.name("every")
    last = d.name("last")
    d.nodes.append(
        helper.make_node(
            op, given, [every, last], hidden_size=hidden, direction="bidirectional" if both else "forward"
        )
    )
    flat = d.op("Reshape", d.op("Transpose", last, perm=[1, 0, 2]), d.fixed(np.array([-1, ways * hidden])))
    return d.op("MatMul", flat, d.held((ways * hidden, WIDTH)))


def norm(d, x):
    kind = d.draw(0, 3)
    if kind == 0:
        return d.op("LayerNormalization", x, d.held((WIDTH,)), d.held((WIDTH,)))
    if kind == 1:
        return d.op("SimplifiedLayerNormalization", x, d.held((WIDTH,)))
    rows = d.op("Unsqueeze", x, d.fixed(np.array([1])))
    skip = d.op("Tanh", rows)
    held = [d.held((WIDTH,)) for _ in range(2 if kind == 2 else 3)]
    op = "SkipSimplifiedLayerNormalization" if kind == 2 else "SkipLayerNormalization"
    return d.op("Squeeze", d.op(op, rows, skip, *held, domain=MICROSOFT), d.fixed(np.array([1])))


def fused(d, x):
    kind = d.draw(0, 4)
    if kind == 0:
        return d.op(
            "FusedMatMul", x, d.held((WIDTH, WIDTH)), domain=MICROSOFT, transB=1, alpha=0.5 + d.draw(0, 1) / 2
        )
    if kind == 1:
        held = d.held((WIDTH, WIDTH)), d.held((WIDTH,))
        settings = [{"activation": "Tanh"}, {"activation": "LeakyRelu", "activation_alpha": 0.2}][
            d.draw(0, 1)
        ]
        return d.op("FusedGemm", x, *held, domain=MICROSOFT, **settings)
    if kind == 2:
        return d.op("BiasGelu", x, d.held((WIDTH,)), domain=MICROSOFT)
    if kind == 3:
        return d.op("FastGelu", x, d.held((WIDTH,)), domain=MICROSOFT)
    rows = d.op("Reshape", x, d.fixed(np.array([-1, 2, 2])))
    if d.draw(0, 1):
        made = d.op("Attention", rows, d.held((2, 6)), d.held((6,)), domain=MICROSOFT, num_heads=1)
    else:
        three = [d.op("MatMul", rows, d.held((2, 2))) for _ in range(3)]
        made = d.op("MultiHeadAttention", *three, d.held((6,)), domain=MICROSOFT, num_heads=1)
    return d.op("Reshape", made, d.fixed(np.array([-1, WIDTH])))


def _body(d, name, x, out):
    """A branch: x w + b with tensors of its own, as initializers or Constants, and one captured from outside."""
    w, b = (
        np.random.default_rng(d.count + i).uniform(0.2, 0.8, s).astype(np.float32)
        for i, s in enumerate([(WIDTH, WIDTH), (WIDTH,)])
    )
    held = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    d.count += 2
    nodes = [
        helper.make_node("MatMul", [x, "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Tanh", ["q"], [out]),
    ]
    if d.draw(0, 1):
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in held] + nodes
        held = []
    return nodes, held


def branches(d, x):
    total = d.op("ReduceSum", d.rows, keepdims=0)  # of the input, so that both are taken
    cond = d.op("Greater", total, d.fixed(np.float32(0)))
    made = {}
    for branch in ("then_branch", "else_branch"):
        nodes, held = _body(d, branch, x, "out")
        made[branch] = helper.make_graph(nodes, branch, [], [value("out", None)], held)
    return d.op("If", cond, **made)


def loop(d, x):
    nodes, held = _body(d, "body", "h", "h_next")
    nodes.append(helper.make_node("Identity", ["going"], ["go_on"]))
    inputs = [value("i", [], INT64), value("going", [], BOOL), value("h", None)]
    body = helper.make_graph(nodes, "body", inputs, [value("go_on", [], BOOL), value("h_next", None)], held)
    return d.op("Loop", d.fixed(np.array(2)), "", x, body=body)


def scan(d, x):
    nodes = [helper.make_node("MatMul", ["h", "layer"], ["p"]), helper.make_node("Tanh", ["p"], ["h_next"])]
    rows = ["rows", WIDTH]  # Scan wants shapes
    inputs = [value("h", rows), value("layer", [WIDTH, WIDTH])]
    body = helper.make_graph(nodes, "body", inputs, [value("h_next", rows)])
    return d.op("Scan", x, d.held((2, WIDTH, WIDTH)), body=body, num_scan_inputs=1)


def slopes(d, x):
    return d.op("PRelu", x, d.held([(WIDTH,), (1,)][d.draw(0, 1)]))


def halves(d, x):
    """A layer in float16 and one in float64, which can't be trained."""
    kind, dtype = [(onnx.TensorProto.FLOAT16, np.float16), (onnx.TensorProto.DOUBLE, np.float64)][
        d.draw(0, 1)
    ]
    w = d.fixed((0.5 * np.eye(WIDTH) + 0.1).astype(dtype))
    return d.op("Cast", d.op("MatMul", d.op("Cast", x, to=kind), w), to=onnx.TensorProto.FLOAT)


def settings(d, x):
    """Arithmetic with numbers that nobody learnt, and what is subtracted or divided by."""
    y = d.op("Sub", x, d.held((WIDTH,)))
    return d.op("Div", d.op("Mul", y, d.held((1,))), d.held((1, WIDTH)))


def training(d, x):
    """What files of training runs hold: statistics of the batch beside running ones, and dropping at random."""
    if d.draw(0, 1):
        ratio, on = d.fixed(np.float32(0.5)), d.fixed(np.array(bool(d.draw(0, 1))))
        given = [x, ratio, on] if d.draw(0, 2) else [x, ratio]
        return d.op("Dropout", *given)
    held = [d.held((WIDTH,)), d.held((WIDTH,))]
    running = [d.fixed(np.full(WIDTH, value, np.float32)) for value in (0.1, 1.5)]
    normed = d.ops("BatchNormalization", 3, x, *held, *running, training_mode=1)
    return normed[0]


def embedded(d, x):
    """Rows of the input taken for four ids each, which are looked up and added."""
    numbers = d.op("Mod", d.op("Abs", d.op("Cast", d.rows, to=INT32)), d.fixed(np.array(3, np.int32)))
    if d.draw(0, 2) == 0:
        made = d.op("Gather", d.held((5, WIDTH)), numbers)
    else:
        kinds = [d.op("Sub", numbers, numbers), d.held((2, WIDTH))] if d.draw(0, 1) else ["", ""]
        given = [numbers, kinds[0], d.held((5, WIDTH)), d.held((6, WIDTH)), kinds[1]]
        norm = [d.held((WIDTH,)), d.held((WIDTH,))]
        made, _ = d.ops("EmbedLayerNormalization", 2, *given, *norm, domain=MICROSOFT)
    return d.op("Add", x, d.op("ReduceSum", made, d.fixed(np.array([1])), keepdims=0))


LAYERS = (
    matmul, gemm, narrow, conv, recurrent, norm, fused, branches, loop, scan, slopes, halves, settings, training,
    embedded,
)  # fmt: skip
