"""Prompts from a model to a deployed one, through the command line."""

import json

import numpy as np
import onnxruntime
import pytest

from tests.builders import tiny
from tests.zoedge.commands import error, run
from zoedge.bundle import Bundle
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run
from zoedge.tensor_file import map_tensors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    tiny.tiny_opt(folder / "opt")
    words = ["great film", "terrible film", "good plot", "bad plot", "loved it", "hated it"]
    rows = [{"prompt": f"{w} it was", "completion": ("great", "bad")[i % 2]} for i, w in enumerate(words * 4)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = ("--task", "text-generation", "--train", "prompt", "--prompt-tokens", 3)
    for name in ("none", "int8"):
        run("export", folder / "opt", "-o", folder / name, *asked, "--quantize", name)
    return folder


SETTINGS = ("--method", "mezo", "--steps", 12, "--batch-size", 8, "--lr", 0.05, "--eps", 0.05, "--threads", 1)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_from_a_model_to_a_deployed_one(place, tmp_path, quantize):
    bundle = Bundle.open(place / quantize)
    lines = [line.split() for line in run("inspect", place / quantize).output.splitlines()]
    assert any(line[:6] == ["prompt", "1", "branches,", "tokens", "3", "filler"] for line in lines)
    data = ("--data", place / "data.jsonl")
    run("tune", place / quantize, *data, "-o", tmp_path / "run", *SETTINGS)
    tuned = Run.open(tmp_path / "run").weights("last")
    (name,) = tuned
    first = map_tensors(bundle.path("adapters.safetensors"))[name]
    assert np.abs(tuned[name] - first).max() > 1e-3
    run("replay", tmp_path / "run", "-o", tmp_path / "replayed")
    again = map_tensors(next((tmp_path / "replayed").rglob("*.safetensors")))
    assert np.array_equal(again[name], tuned[name])
    assert "loss" in run("eval", tmp_path / "run", *data).output
    assert run("predict", tmp_path / "run", "great film it was").exit_code == 0
    run("merge", tmp_path / "run", "-o", tmp_path / "merged", "--which", "last")
    assert not (tmp_path / "merged" / "model.safetensors").exists()
    merged, kept = session(tmp_path / "merged" / "model.onnx"), session(bundle.path("model_adapters.onnx"))
    assert name not in {i.name for i in (*merged.get_inputs(), *merged.get_overridable_initializers())}
    ids = np.random.default_rng(0).integers(10, 60, (2, 6)).astype(np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = kept.run(["logits"], given | tuned)[0]
    np.testing.assert_allclose(merged.run(["logits"], given)[0], wanted, rtol=1e-4, atol=1e-4)
    loaded = onnxruntime.LoraAdapter()
    run("adapter", tmp_path / "run", "-o", tmp_path / "tuned.onnx_adapter", "--which", "last")
    loaded.Load(str(tmp_path / "tuned.onnx_adapter"))
    chosen = onnxruntime.RunOptions()
    chosen.add_active_adapter(loaded)
    np.testing.assert_array_equal(kept.run(["logits"], given, chosen)[0], wanted)


def test_several_prompts_share_a_pass(place, tmp_path):
    found = []
    for count in (1, 4):
        settings = (*SETTINGS, "--queries", 2, "--points-per-pass", count)
        run("tune", place / "none", "--data", place / "data.jsonl", "-o", tmp_path / str(count), *settings)
        records = journal.read_journal(tmp_path / str(count) / "journal.zoj").records
        found.append([answer for record in records for answer in getattr(record, "answers", ())])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_peft_loads_it(place, tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    settings = (*SETTINGS, "--lora-space", "factors")
    told = run("tune", place / "none", "--data", place / "data.jsonl", "-o", tmp_path / "run", *settings)
    assert "--lora-space has no effect here: the bundle has no LoRA branches" in told.output
    run("adapter", tmp_path / "run", "-o", tmp_path / "peft", "--which", "last")
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "opt")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    ids = np.random.default_rng(0).integers(10, 60, (2, 6)).astype(np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits[:, 3:]
    tuned = Run.open(tmp_path / "run").weights("last")
    kept = session(Bundle.open(place / "none").path("model_adapters.onnx"))
    np.testing.assert_allclose(kept.run(["logits"], given | tuned)[0], wanted, rtol=1e-3, atol=2e-4)


def test_peft_has_none_for_a_masked_model(tmp_path):
    tiny.tiny_bert_mlm(tmp_path / "bert")
    rows = [
        {"text": f"it was {word} film", "label": "good" if word == "great" else "bad"}
        for word in ("great", "dull") * 8
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = (
        "--template",
        "{text} It was {label}",
        "--labels",
        "good,bad",
        "--train",
        "prompt",
        "--prompt-tokens",
        2,
    )
    run("export", tmp_path / "bert", "-o", tmp_path / "bundle", *asked)
    run(
        "tune",
        tmp_path / "bundle",
        "--data",
        tmp_path / "data.jsonl",
        "-o",
        tmp_path / "run",
        "--steps",
        2,
        "--batch-size",
        4,
    )
    assert error("adapter", tmp_path / "run", "-o", tmp_path / "peft") == (
        "Error: PEFT has prompt adapters for causal models and for classifiers with a head of their own: write "
        "NAME.onnx_adapter or use zoedge merge instead\n"
    )
