"""Exports print nothing of onnxruntime's own, and models with rotary embeddings get their graph in two parts."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from tests.builders.models import INT64, model, node, normal, save, value
from tests.builders.tiny import tiny_llama
from zoedge import InputError
from zoedge.export import to_bundle
from zoedge.export.session import Session
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.stages import crossing_values
from zoedge.manifest import FEW_ROWS_FILE, PREFIX_FILE, SUFFIX_FILE

from .test_to_bundle import session


def test_an_export_of_a_llama_prints_nothing_and_has_two_parts(tmp_path, capfd):
    folder = tiny_llama(tmp_path / "model")
    capfd.readouterr()
    options = {"task": "text-generation", "target_modules": ("model.layers.1.*",)}
    bundle = to_bundle(folder, tmp_path / "bundle", **options)
    assert capfd.readouterr() == ("", "")
    crossing = bundle.manifest.stages.crossing
    assert crossing
    ids = np.arange(12).reshape(3, 4)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    given["zoedge/label_positions"] = np.full((3, 1), 3)
    prefix = session(bundle.path(PREFIX_FILE))
    known = {each.name: given[each.name] for each in prefix.get_inputs()}
    handed = dict(zip(crossing, prefix.run(list(crossing), known), strict=True))
    assert all(len(array) == 3 for array in handed.values())  # rows, and no sines of positions
    suffix = session(bundle.path(SUFFIX_FILE))
    assert set(crossing) <= {each.name for each in suffix.get_inputs()}
    capfd.readouterr()


SIZES = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "Qwen2": GROUPED,
    "Qwen3": GROUPED,
    "Mistral": GROUPED,
    "Gemma": GROUPED,
    "Phi": SIZES,
    "GPTNeoX": SIZES,
    "Falcon": {**SIZES, "multi_query": True, "bias": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_causal_models_is_quiet_and_gets_all_forms(tmp_path, capfd, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama(tmp_path / "llama"))
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], "vocab_size": len(tokenizer)})
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    capfd.readouterr()
    bundle = to_bundle(tmp_path / "model", tmp_path / "lora", task="text-generation")
    assert {PREFIX_FILE, SUFFIX_FILE} <= bundle.manifest.files.keys()
    bundle = to_bundle(tmp_path / "model", tmp_path / "full", task="text-generation", train=("full",))
    assert FEW_ROWS_FILE in bundle.manifest.files
    assert capfd.readouterr() == ("", "")


def test_what_depends_on_sizes_alone_is_not_handed_over():
    """Angles are a product of frequencies and positions, made of the shape of the input."""
    nodes = [
        node("Shape", "ids", "s"),
        node("Gather", "s one", "n"),
        node("Range", "zero n step", "positions"),
        node("Cast", "positions", "p", to=1),
        node("Unsqueeze", "p axis", "column"),
        node("MatMul", "column frequencies", "angles"),
        node("Sin", "angles", "sines"),
        node("Gather", "table ids", "e"),
        node("MatMul", "e first", "h"),
        node("Add", "h sines", "r"),
        node("MatMul", "r second", "u"),
        node("Mul", "u sines", "y"),
    ]
    tensors = {"frequencies": normal((1, 4), 1), "table": normal((9, 4), 2), "axis": np.array([1])}
    tensors |= {"first": normal((4, 4), 3), "second": normal((4, 4), 4)}
    proto = model(nodes, [value("ids", ["n", "t"], INT64)], [value("y", ["n", "t", 4])], tensors)
    assert crossing_values(Graph(proto), ["y"], ["second"]) == ["r"]
    assert crossing_values(Graph(proto), ["y"], ["first"]) == []


def test_a_session_that_fails_is_told_in_our_words_alone(tmp_path, capfd):
    nodes = [node("Reshape", "x shape", "a"), node("MatMul", "a w", "y")]
    tensors = {"shape": np.array([-1, 12]), "w": normal((12, 3), 1)}
    proto = model(nodes, [value("x", ["n", "m"])], [value("y", ["n", 3])], tensors)
    made = Session(save(proto, tmp_path / "m.onnx"), "m.onnx")
    with pytest.raises(InputError, match=r"^onnxruntime \S+ fails on m.onnx with x \[2, 5\]: "):
        made.run({"x": np.zeros((2, 5), np.float32)})
    bad = model([node("MatMul", "x w", "y")], [value("x", ["n", 5])], [value("y", ["n", 3])], tensors)
    with pytest.raises(InputError, match=r"^onnxruntime \S+ can't run bad.onnx: "):
        Session(save(bad, tmp_path / "bad.onnx"), "bad.onnx")
    assert capfd.readouterr() == ("", "")
