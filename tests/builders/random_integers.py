"""Layers of integers for random graphs, as rows [n, 4] -> [n, 4] each: QDQ pairs, and operators that multiply codes."""

from __future__ import annotations

import numpy as np
import onnx

from tests.builders.random_draws import MICROSOFT, WIDTH

FLOAT = onnx.TensorProto.FLOAT
CODES = (np.int8, np.uint8)
SCALE, STEP = np.float32(0.01), np.float32(0.05)


def qdq(d, x):
    """Rounded weights, as codes or as floats that the graph rounds, perhaps with rounded activations and bias."""
    w = _dequantized(d, (WIDTH, WIDTH))
    if d.draw(0, 1):
        x = _pair(d, x)
    y = d.op("MatMul", x, w)
    kind = d.draw(0, 2)
    if kind == 2:
        bias = d.fixed(d.rng().integers(-900, 900, WIDTH).astype(np.int32), "codes")
        return d.op("Add", y, d.op("DequantizeLinear", bias, d.fixed(STEP * SCALE)))
    return d.op("Add", y, d.held((WIDTH,))) if kind else y


def qdq_conv(d, x):
    image = d.op("Reshape", _pair(d, x), d.fixed(np.array([0, 1, 2, 2])))
    made = d.op("Conv", image, _dequantized(d, (2, 1, 1, 1)), d.held((2,)))
    return d.op("MatMul", d.op("Flatten", made), d.held((8, WIDTH)))


def dynamic(d, x):
    """What dynamic quantisation writes: integers times integers, and two scales that make floats of them."""
    codes, scale, zero = d.ops("DynamicQuantizeLinear", 3, x)
    conv = d.draw(0, 1)
    if conv:
        codes = d.op("Reshape", codes, d.fixed(np.array([0, 1, 2, 2])))
        product = d.op("ConvInteger", codes, _codes(d, (2, 1, 1, 1), np.uint8), zero, _zero(d, np.uint8))
    else:
        kind = CODES[d.draw(0, 1)]
        product = d.op("MatMulInteger", codes, _codes(d, (WIDTH, WIDTH), kind), zero, _zero(d, kind))
    ws = d.fixed(SCALE) if conv or d.draw(0, 1) else d.fixed(np.full(WIDTH, SCALE))
    y = d.op("Mul", d.op("Cast", product, to=FLOAT), d.op("Mul", scale, ws))
    if conv:
        return d.op("MatMul", d.op("Flatten", y), d.held((8, WIDTH)))
    return d.op("Add", y, d.held([(WIDTH,), (1,)][d.draw(0, 1)])) if d.draw(0, 1) else y


def joined(d, x):
    """DynamicQuantizeMatMul and MatMulIntegerToFloat, in which the scales and a bias are inputs."""
    weight, scale, bias = _codes(d, (WIDTH, WIDTH), np.int8), d.fixed(np.full(WIDTH, SCALE)), d.held((WIDTH,))
    if d.draw(0, 1):
        return d.op("DynamicQuantizeMatMul", x, weight, scale, "", bias, domain=MICROSOFT)
    codes, step, zero = d.ops("DynamicQuantizeLinear", 3, x)
    given = [codes, weight, step, scale, zero, "", bias]
    return d.op("MatMulIntegerToFloat", *given, domain=MICROSOFT)


def qlinear(d, x):
    """Integers in and out, as the QOperator format has them."""
    kind = d.draw(0, 3)
    zero, step = _zero(d, np.uint8, 128), d.fixed(STEP)
    codes = d.op("QuantizeLinear", x, step, zero)
    weight = [_codes(d, (WIDTH, WIDTH), np.int8), d.fixed(SCALE), _zero(d, np.int8)]
    bias = d.fixed(d.rng().integers(-900, 900, WIDTH).astype(np.int32), "codes")
    out = [d.fixed(np.float32(0.02)), _zero(d, np.uint8, 120)]
    if kind == 0:
        y = d.op("QLinearMatMul", codes, step, zero, *weight, *out)
    elif kind == 1:
        y = d.op("QGemm", codes, step, zero, *weight, bias, *out, domain=MICROSOFT)
    elif kind == 2:
        image = d.op("Reshape", codes, d.fixed(np.array([0, WIDTH, 1, 1])))
        weight[0] = _codes(d, (WIDTH, WIDTH, 1, 1), np.int8)
        y = d.op("Flatten", d.op("QLinearConv", image, step, zero, *weight, *out, bias))
    else:
        other = [_codes(d, (WIDTH,), np.uint8), d.fixed(STEP), _zero(d, np.uint8, 90)]
        y = d.op("QLinearAdd", codes, step, zero, *other, *out, domain=MICROSOFT)
    return d.op("DequantizeLinear", y, *out)


def packed(d, x):
    """MatMulNBits: two codes a byte, scales, perhaps zero points and a bias."""
    codes = d.fixed(d.rng().integers(0, 256, (WIDTH, 1, 8)).astype(np.uint8), "codes")
    scale = d.fixed(np.full(WIDTH, 0.05, np.float32))
    zero = d.fixed(d.rng().integers(0, 16, WIDTH).astype(np.uint8)) if d.draw(0, 1) else ""
    given = [x, codes, scale, *([zero, "", d.held((WIDTH,))] if d.draw(0, 1) else [zero] if zero else [])]
    return d.op("MatMulNBits", *given, domain=MICROSOFT, K=WIDTH, N=WIDTH, bits=4, block_size=16)


def attended(d, x):
    """QAttention, whose bias is of floats."""
    codes, scale, zero = d.ops("DynamicQuantizeLinear", 3, x)
    codes = d.op("Reshape", codes, d.fixed(np.array([-1, 2, 2])))
    given = [
        codes,
        _codes(d, (2, 6), np.int8),
        d.held((6,)),
        scale,
        d.fixed(SCALE),
        "",
        zero,
        _zero(d, np.int8),
    ]
    y = d.op("QAttention", *given, domain=MICROSOFT, num_heads=1)
    return d.op("Reshape", y, d.fixed(np.array([-1, WIDTH])))


def dynamic_lstm(d, x):
    steps = d.op("Transpose", d.op("Reshape", x, d.fixed(np.array([-1, 2, 2]))), perm=[1, 0, 2])
    weights = [_codes(d, (1, 2, 8), np.int8), _codes(d, (1, 2, 8), np.int8), d.held((1, 16))]
    scales = [d.fixed(np.array([SCALE])), d.fixed(np.zeros(1, np.int8), "zero")]
    given = [steps, *weights, "", "", "", "", *scales, *[d.fixed(d.tensors[name]) for name in scales]]
    _, last = d.ops("DynamicQuantizeLSTM", 2, *given, domain=MICROSOFT, hidden_size=2)
    return d.op("MatMul", d.op("Reshape", last, d.fixed(np.array([-1, 2]))), d.held((2, WIDTH)))


def _codes(d, shape, kind):
    info = np.iinfo(kind)
    return d.fixed(d.rng().integers(info.min + 1, info.max + 1, shape).astype(kind), "codes")


def _zero(d, kind, at=0):
    return d.fixed(np.array(at or (np.iinfo(kind).max + 1) // 2 * (kind == np.uint8)).astype(kind), "zero")


def _pair(d, x):
    kind = CODES[d.draw(0, 1)]
    settings = [d.fixed(STEP), _zero(d, kind)]
    return d.op("DequantizeLinear", d.op("QuantizeLinear", x, *settings), *settings)


def _dequantized(d, shape):
    kind, rounded, channels = CODES[d.draw(0, 1)], d.draw(0, 1), d.draw(0, 1)
    settings = [d.fixed(np.full(shape[0], SCALE) if channels else SCALE)]
    settings.append(
        d.fixed(np.full(shape[0], 3 if kind == np.int8 else 120, kind), "zero")
        if channels
        else _zero(d, kind)
    )
    axis = {"axis": 0} if channels else {}
    codes = d.op("QuantizeLinear", d.held(shape), *settings, **axis) if rounded else _codes(d, shape, kind)
    return d.op("DequantizeLinear", codes, *settings, **axis)


LAYERS = (qdq, qdq_conv, dynamic, joined, qlinear, packed, attended, dynamic_lstm)
