"""Sixteen kinds of source that users bring, tiny and with random weights: transformers folders and ``.onnx`` files.

Each builder takes an empty folder and returns what ``zoedge export`` is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from torch import nn

from tests.builders import tiny
from tests.builders.models import convnet, mlp, model, node, normal, save, value

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_COMMON = {**_SIZES, "max_position_embeddings": tiny.POSITIONS, "initializer_range": 0.2}
_FEED = {"intermediate_size": 64}
_GROUPED = {**_COMMON, **_FEED, "num_key_value_heads": 2}
_HEADS = {"head_dim": 8}

# name -> (configuration, its settings)
CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", _GROUPED),
    "Qwen2": ("Qwen2Config", _GROUPED),
    "Qwen3": ("Qwen3Config", {**_GROUPED, **_HEADS}),
    "Mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 16}),
    "Gemma": ("GemmaConfig", {**_GROUPED, **_HEADS}),
    "Phi": ("PhiConfig", {**_COMMON, **_FEED}),
    "GPTNeoX": ("GPTNeoXConfig", {**_COMMON, **_FEED}),
    "Falcon": ("FalconConfig", {**_COMMON, "alibi": False, "new_decoder_architecture": False}),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ModernBert": (
        "ModernBertConfig",
        {**_COMMON, **_FEED, "local_attention": 8, "global_attn_every_n_layers": 2, "reference_compile": False},
    ),
    "DebertaV2": (
        "DebertaV2Config",
        {**_COMMON, **_FEED, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    ),
}  # fmt: skip


def causal(name: str, folder: Path) -> Path:
    """A causal language model of transformers, with a byte-fallback tokenizer."""
    kind, settings = CAUSAL[name]
    tokenizer = tiny.metaspace()
    ids = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, kind)(vocab_size=len(tokenizer), **{**settings, **ids})
    return tiny.save(folder, getattr(transformers, f"{name}ForCausalLM"), config, tokenizer)


def encoder(name: str, folder: Path) -> Path:
    """A classifier of transformers for "no" and "yes"."""
    kind, settings = ENCODERS[name]
    tokenizer = tiny.wordpiece()
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}, "pad_token_id": 0}
    ids = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = getattr(transformers, kind)(vocab_size=len(tokenizer), **{**settings, **labels, **ids})
    return tiny.save(folder, getattr(transformers, f"{name}ForSequenceClassification"), config, tokenizer)


def fused_bert(folder: Path) -> Path:
    """BERT as optimum exports it, fused by onnxruntime's transformer optimizer, beside its tokenizer."""
    from onnxruntime.transformers.optimizer import optimize_model
    from optimum.exporters.onnx import main_export

    source = tiny.tiny_bert(folder / "source", labels=("no", "yes"))
    main_export(str(source), folder / "optimum", task="text-classification", do_validation=False)
    fused = optimize_model(str(folder / "optimum" / "model.onnx"), "bert", num_heads=4, hidden_size=32)
    assert any(each.op_type == "Attention" for each in fused.model.graph.node)
    fused.save_model_to_file(str(folder / "optimum" / "model.onnx"))
    return folder / "optimum"


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(8, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def recurrent(kind: type[nn.Module], folder: Path) -> Path:
    """An LSTM or a GRU in both directions, as torch's older exporter writes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _Recurrent(kind).eval()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    torch.onnx.export(module, (torch.rand(2, 5, 8),), str(folder / "m.onnx"), dynamo=False, **names)
    return folder / "m.onnx"


def dynamic_lstm(folder: Path) -> Path:
    """An LSTM of 8-bit weights by onnxruntime's ``quantize_dynamic``."""
    source = recurrent(nn.LSTM, folder)
    quantize_dynamic(str(source), str(folder / "q.onnx"))
    return folder / "q.onnx"


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._rows = iter([{name: normal((4, *shape), seed, 1.0)} for seed in range(8)])

    def get_next(self) -> Any:
        return next(self._rows, None)


def _static(proto: onnx.ModelProto, name: str, shape: tuple[int, ...], folder: Path) -> Path:
    source = save(proto, folder / "m.onnx")
    quantize_static(str(source), str(folder / "q.onnx"), _Reader(name, shape), quant_format=QuantFormat.QDQ)
    return folder / "q.onnx"


def qdq_mlp(folder: Path) -> Path:
    """A network of three layers, quantised with calibration."""
    return _static(mlp(), "x", (8,), folder)


def qdq_cnn(folder: Path) -> Path:
    """Two convolutions and a linear layer, quantised with calibration."""
    return _static(convnet(classes=3), "pixels", (3, 8, 8), folder)


def _zipped(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], probabilities: str
) -> onnx.ModelProto:
    """End a graph as skl2onnx does: a label, and probabilities as a list of dictionaries."""
    zipped = node("ZipMap", probabilities, "output_probability", classlabels_int64s=[0, 1, 2])
    zipped.domain = "ai.onnx.ml"
    mapped = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    outputs = [
        value("output_label", ["n"], TensorProto.INT64),
        helper.make_value_info("output_probability", helper.make_sequence_type_proto(mapped)),
    ]
    return model([*nodes, zipped], [value("x", ["n", 8])], outputs, tensors, domains=("ai.onnx.ml",))


def sklearn_network(folder: Path) -> Path:
    """MLPClassifier as skl2onnx writes it: tensors, a softmax, ArgMax and ArrayFeatureExtractor, ZipMap."""
    tensors = {
        "coefficient": normal((8, 16), 1),
        "intercepts": normal((1, 16), 2),
        "coefficient1": normal((16, 3), 3),
        "intercepts1": normal((1, 3), 4),
        "classes": np.arange(3),
        "shape_tensor": np.array([-1]),
    }
    nodes = [
        node("MatMul", "x coefficient", "mul_result"),
        node("Add", "mul_result intercepts", "add_result"),
        node("Relu", "add_result", "next_activations"),
        node("MatMul", "next_activations coefficient1", "mul_result1"),
        node("Add", "mul_result1 intercepts1", "add_result1"),
        node("Softmax", "add_result1", "out_activations_result"),
        node("ArgMax", "out_activations_result", "argmax_output", axis=1),
        node("ArrayFeatureExtractor", "classes argmax_output", "array_feature_extractor_result"),
        node("Reshape", "array_feature_extractor_result shape_tensor", "output_label"),
    ]
    nodes[-2].domain = "ai.onnx.ml"
    return save(_zipped(nodes, tensors, "out_activations_result"), folder / "m.onnx")


def sklearn_linear(folder: Path) -> Path:
    """LogisticRegression as skl2onnx writes it: coefficients are attributes of an operator and no tensors."""
    weights = normal((3, 8), 1)
    linear = node(
        "LinearClassifier", "x", "label probability_tensor", coefficients=weights.ravel().tolist(),
        intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], multi_class=1, post_transform="LOGISTIC",
    )  # fmt: skip
    norm = node("Normalizer", "probability_tensor", "probabilities", norm="L1")
    linear.domain = norm.domain = "ai.onnx.ml"
    cast = node("Cast", "label", "output_label", to=TensorProto.INT64)
    return save(_zipped([linear, norm, cast], {}, "probabilities"), folder / "m.onnx")
