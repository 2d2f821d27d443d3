"""One layer [n, 32] -> [n, 16] with a matrix of 8 or 4 bits, in each form that quantisation tools write."""

import numpy as np
from onnx import TensorProto

from tests.builders.models import model, node, value

MS = "com.microsoft"
QUANTISED = (
    "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DequantizeLinear", "QLinearMatMul",
    "MatMulNBits",
)  # fmt: skip


def quantised(form):
    """A layer with an 8-bit (or 4-bit) matrix, as quantisation tools write it."""
    rng = np.random.default_rng(4)
    q = rng.integers(-100, 100, (32, 16)).astype(np.int8)  # [in, out]
    scale, zero = np.array(0.01, np.float32), np.array(0, np.int8)
    dynamic = node("DynamicQuantizeLinear", "x", "xq xs xz")
    if form == "MatMulInteger":
        tensors = {"fc.weight_quantized": q, "ws": scale, "wz": zero}
        nodes = [
            dynamic,
            node("MatMulInteger", "xq fc.weight_quantized xz wz", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "xs ws", "s"),
            node("Mul", "f s", "y"),
        ]
    elif form == "DynamicQuantizeMatMul":
        tensors = {"fc.weight_quantized": q, "ws": scale, "wz": zero}
        nodes = [node("DynamicQuantizeMatMul", "x fc.weight_quantized ws wz", "y", domain=MS)]
    elif form == "MatMulIntegerToFloat":
        tensors = {"fc.weight_quantized": q, "ws": scale, "wz": zero}
        nodes = [dynamic, node("MatMulIntegerToFloat", "xq fc.weight_quantized xs ws xz wz", "y", domain=MS)]
    elif form == "DequantizeLinear":
        tensors = {"fc.weight_quantized": q, "ws": scale, "wz": zero}
        nodes = [node("DequantizeLinear", "fc.weight_quantized ws wz", "w"), node("MatMul", "x w", "y")]
    elif form == "QLinearMatMul":
        tensors = {"fc.weight_quantized": q, "ws": scale, "wz": zero}
        tensors |= {
            "as": np.array(0.03, np.float32),
            "az": np.array(0, np.int8),
            "ys": np.array(0.2, np.float32),
        }
        nodes = [
            node("QuantizeLinear", "x as az", "xq"),
            node("QLinearMatMul", "xq as az fc.weight_quantized ws wz ys az", "yq"),
            node("DequantizeLinear", "yq ys az", "y"),
        ]
    else:
        packed = rng.integers(0, 255, (16, 1, 16)).astype(
            np.uint8
        )  # [out, blocks, bytes of 32 4-bit numbers]
        tensors = {"fc.weight_Q4": packed, "ws": np.full((16, 1), 0.01, np.float32)}
        nodes = [node("MatMulNBits", "x fc.weight_Q4 ws", "y", domain=MS, K=32, N=16, bits=4, block_size=32)]
    return model(nodes, [value("x", ["n", 32])], [value("y", ["n", 16])], tensors, domains=(MS,))
