"""Prefixes from a model to a deployed one, through the command line."""

import json

import numpy as np
import onnxruntime
import pytest

from tests.builders import tiny
from tests.zoedge.commands import run
from zoedge.bundle import Bundle
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run
from zoedge.tensor_file import map_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SETTINGS = ("--method", "mezo", "--steps", 10, "--batch-size", 8, "--lr", 0.05, "--eps", 0.05, "--threads", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefixes")
    tiny.tiny_llama(folder / "llama")
    words = ["great film", "terrible film", "good plot", "bad plot", "loved it", "hated it"]
    rows = [{"text": w, "label": ("good", "bad")[i % 2]} for i, w in enumerate(words * 4)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = ("--template", "{text} it was {label}", "--labels", "good,bad", "--train", "prefix")
    run("export", folder / "llama", "-o", folder / "bundle", *asked)
    return folder


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_from_a_model_to_a_deployed_one(place, tmp_path):
    bundle, data = Bundle.open(place / "bundle"), ("--data", place / "data.jsonl")
    run("tune", place / "bundle", *data, "-o", tmp_path / "run", *SETTINGS)
    tuned = Run.open(tmp_path / "run").weights("last")
    assert len(tuned) == 4
    run("replay", tmp_path / "run", "-o", tmp_path / "replayed")
    again = map_tensors(next((tmp_path / "replayed").rglob("*.safetensors")))
    assert all(np.array_equal(again[name], value) for name, value in tuned.items())
    assert "accuracy" in run("eval", tmp_path / "run", *data).output
    run("merge", tmp_path / "run", "-o", tmp_path / "merged", "--which", "last")
    ids = np.random.default_rng(0).integers(10, 60, (2, 6)).astype(np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = session(bundle.path("model_adapters.onnx")).run(["logits"], given | tuned)[0]
    got = session(tmp_path / "merged" / "model.onnx").run(["logits"], given)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    run("adapter", tmp_path / "run", "-o", tmp_path / "tuned.onnx_adapter")
    run("adapter", tmp_path / "run", "-o", tmp_path / "peft", "--which", "last")
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "llama")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    with torch.no_grad():
        by_peft = loaded(**{name: torch.from_numpy(array) for name, array in given.items()}).logits
    np.testing.assert_allclose(by_peft, wanted, rtol=1e-3, atol=2e-4)


def test_several_prefixes_share_a_pass(place, tmp_path):
    found = []
    for count in (1, 4):
        settings = (*SETTINGS, "--queries", 2, "--points-per-pass", count)
        run("tune", place / "bundle", "--data", place / "data.jsonl", "-o", tmp_path / str(count), *settings)
        records = journal.read_journal(tmp_path / str(count) / "journal.zoj").records
        found.append([answer for record in records for answer in getattr(record, "answers", ())])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
