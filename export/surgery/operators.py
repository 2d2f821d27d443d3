"""What operators do with their inputs that training learns: ONNX's own, and onnxruntime's fused ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import onnx

# weight: a matrix or filter; bias: added per output; scale, shift: of a norm; embedding: rows that indices look up;
# other: learnt, and none of these; statistic, table, rounding: not learnt by gradient descent
Use = Literal["weight", "bias", "scale", "shift", "embedding", "other", "statistic", "table", "rounding"]

MICROSOFT = "com.microsoft"
CONVOLUTIONS = frozenset((
    "Conv", "ConvTranspose", "DeformConv", "FusedConv", "NhwcFusedConv", "NhwcConv",
))  # fmt: skip
RECURRENT = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"))
PRODUCTS = frozenset(
    ("MatMul", "Gemm", "Einsum", "FusedMatMul", "TransposeMatMul", "FusedGemm", "GemmFastGelu")
)
INTEGER_PRODUCTS = frozenset((
    "MatMulNBits", "MatMulBnb4", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QAttention",
    "QGemm", "QLinearMatMul",
))  # fmt: skip
ATTENTION = frozenset((
    "Attention", "QAttention", "MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "DecoderAttention",
    "PackedAttention", "PackedMultiHeadAttention", "LongformerAttention", "GroupQueryAttention",
))  # fmt: skip

_RECURRENT: dict[int, Use] = {1: "weight", 2: "weight", 3: "bias", 5: "other", 6: "other", 7: "other"}
_EMBEDDED: dict[int, Use] = {2: "embedding", 3: "embedding", 4: "embedding", 5: "scale", 6: "shift"}
_EXPERTS: dict[int, Use] = {
    2: "weight", 3: "bias", 4: "weight", 5: "bias", 6: "weight", 7: "bias",
}  # fmt: skip

_USES: dict[str, dict[int, Use]] = {
    "MatMul": {0: "weight", 1: "weight"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "DeformConv": {1: "weight", 3: "bias"},
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "PRelu": {1: "other"},
    "Gather": {0: "embedding"},
    "LayerNormalization": {1: "scale", 2: "shift"},
    "BatchNormalization": {1: "scale", 2: "shift", 3: "statistic", 4: "statistic"},
    "GroupNormalization": {1: "scale", 2: "shift"},
    "InstanceNormalization": {1: "scale", 2: "shift"},
    "RMSNormalization": {1: "scale"},
    "SimplifiedLayerNormalization": {1: "scale"},
    "RotaryEmbedding": {1: "table", 2: "table"},
    "DequantizeLinear": {0: "rounding", 1: "rounding"},
    "QuantizeLinear": {0: "rounding", 1: "rounding"},
    "QLinearConv": {1: "rounding", 4: "rounding", 6: "rounding", 8: "rounding"},
    "QLinearMatMul": {1: "rounding", 4: "rounding", 6: "rounding"},
}  # fmt: skip
_FUSED: dict[str, dict[int, Use]] = {
    "Attention": {1: "weight", 2: "bias"},
    "BatchNormInference": {1: "scale", 2: "shift", 3: "statistic", 4: "statistic"},
    "BiasAdd": {1: "bias"},
    "BiasDropout": {1: "bias"},
    "BiasGelu": {1: "bias"},
    "BiasSplitGelu": {1: "bias"},
    "DecoderAttention": {2: "weight", 3: "weight", 4: "bias"},
    "DecoderMaskedMultiHeadAttention": {10: "bias"},
    "DynamicQuantizeLSTM": {3: "bias", 7: "other", 8: "rounding", 10: "rounding"},
    "DynamicQuantizeMatMul": {2: "rounding", 4: "bias"},
    "EmbedLayerNormalization": _EMBEDDED,
    "FastGelu": {1: "bias"},
    "FusedConv": {1: "weight", 2: "bias"},
    "FusedGemm": {0: "weight", 1: "weight", 2: "bias"},
    "FusedMatMul": {0: "weight", 1: "weight"},
    "GatedRelativePositionBias": {1: "bias", 3: "weight", 4: "bias", 5: "other"},
    "GatherBlockQuantized": {2: "rounding"},
    "GemmFastGelu": {1: "weight", 2: "bias"},
    "GroupNorm": {1: "scale", 2: "shift"},
    "GroupQueryAttention": {7: "table", 8: "table", 11: "other"},
    "LongformerAttention": {1: "weight", 2: "bias", 4: "weight", 5: "bias"},
    "MatMulBnb4": {2: "rounding"},
    "MatMulIntegerToFloat": {2: "rounding", 3: "rounding", 6: "bias"},
    "MatMulNBits": {2: "rounding", 5: "bias"},
    "MoE": _EXPERTS,
    "MultiHeadAttention": {3: "bias"},
    "NhwcFusedConv": {1: "weight", 2: "bias"},
    "PackedAttention": {1: "weight", 2: "bias"},
    "PackedMultiHeadAttention": {3: "bias"},
    "QAttention": {2: "bias", 3: "rounding", 4: "rounding"},
    "QEmbedLayerNormalization": {
        5: "scale", 6: "shift", 8: "rounding", 9: "rounding", 10: "rounding", 11: "rounding", 12: "rounding",
    },
    "QGemm": {1: "rounding", 4: "rounding", 6: "rounding", 7: "rounding"},
    "QMoE": {3: "rounding", 4: "bias", 6: "rounding", 7: "bias", 9: "rounding", 10: "bias"},
    "RelativePositionBias": {0: "embedding"},
    "RotaryEmbedding": {2: "table", 3: "table"},
    "SkipGroupNorm": {1: "scale", 2: "shift", 4: "bias"},
    "SkipLayerNormalization": {2: "scale", 3: "shift", 4: "bias"},
    "SkipSimplifiedLayerNormalization": {2: "scale", 3: "bias"},
    "TransposeMatMul": {0: "weight", 1: "weight"},
}  # fmt: skip
_NONE: Mapping[int, Use] = MappingProxyType({})


def learnt_uses(node: onnx.NodeProto) -> Mapping[int, Use]:
    """Return what a node does with those inputs that may be stored tensors, by place; arithmetic isn't listed."""
    fused = _FUSED.get(node.op_type)
    if fused is not None and node.domain == MICROSOFT:
        return fused
    return _USES.get(node.op_type, _NONE)
