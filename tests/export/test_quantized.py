"""Transformers with int8 and int4 bases: exported, tuned, evaluated, merged, and taken away as adapters."""

import json
import warnings

import numpy as np
import onnxruntime
import pytest

from tests.zoedge.commands import run
from zoedge.bundle import Bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.run.run_folder import Run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch, transformers and peft say about themselves
IDS = np.array([[5, 9, 14, 20, 7, 8], [11, 6, 30, 12, 13, 9]], np.int64)
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


@pytest.fixture(scope="module", params=["int8", "int4"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def opt(kind, tiny_opt, tmp_path_factory):
    return _tuned(
        tmp_path_factory.mktemp("opt"), tiny_opt, kind, {"prompt": "the movie was", "completion": " great"}
    )


@pytest.fixture(scope="module")
def bert(kind, tiny_bert, tmp_path_factory):
    return _tuned(
        tmp_path_factory.mktemp("bert"), tiny_bert, kind, {"text": "the plot was dull", "label": "maybe"}
    )


def _tuned(folder, source, kind, row):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run("export", source, "-o", folder / "bundle", "--quantize", kind)
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 12)
    settings = ("--steps", 30, "--batch-size", 8, "--lr", 0.02, "--lora-space", "factors", "--eps", 0.02)
    run("tune", folder / "bundle", "-d", folder / "rows.jsonl", "-o", folder / "run", *settings)
    return folder


def _session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _logits(path, adapter=None):
    session = _session(path)
    options = onnxruntime.RunOptions()
    if adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        options.add_active_adapter(loaded)
    inputs = {value.name: INPUTS[value.name] for value in session.get_inputs()}
    return session.run(["logits"], inputs, options)[0]


def _check(folder, auto, source, tmp_path):
    """Loss fell; the merged folder, both adapters and the float file agree as far as rounding lets them."""
    before = json.loads(run("eval", folder / "bundle", "-d", folder / "rows.jsonl", "--json").stdout)
    after = json.loads(run("eval", folder / "run", "-d", folder / "rows.jsonl", "--json").stdout)
    assert after["loss"] < before["loss"]
    run("predict", folder / "run", "the movie was")
    merged = run("merge", folder / "run", "-o", tmp_path / "merged")
    assert "model.safetensors is float32" in merged.stderr
    onnx_logits = _logits(tmp_path / "merged" / "model.onnx")
    run("adapter", folder / "run", "-o", tmp_path / "t.onnx_adapter")
    adapted = _logits(folder / "bundle" / "model_adapters.onnx", tmp_path / "t.onnx_adapter")
    np.testing.assert_allclose(adapted, onnx_logits, rtol=1e-3, atol=1e-3)
    run("adapter", folder / "run", "-o", tmp_path / "peft")
    model, report = auto.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    plain = auto.from_pretrained(source)
    tuned = peft.PeftModel.from_pretrained(auto.from_pretrained(source), tmp_path / "peft")
    base, floats, with_peft = (_torch(m) for m in (plain, model, tuned))
    size = np.abs(onnx_logits).max()
    assert np.abs(floats - onnx_logits).max() < 0.2 * size  # a tied head is float there, as the source has it
    assert np.abs(with_peft - onnx_logits).max() < 0.5 * size
    assert not np.allclose(with_peft, base)


def _torch(model):
    with torch.no_grad():
        inputs = {
            "input_ids": torch.from_numpy(IDS),
            "attention_mask": torch.ones_like(torch.from_numpy(IDS)),
        }
        return model.eval()(**inputs).logits.numpy()


def test_opt(opt, tiny_opt, tmp_path):
    _check(opt, transformers.AutoModelForCausalLM, tiny_opt, tmp_path)


def test_bert(bert, tiny_bert, tmp_path):
    _check(bert, transformers.AutoModelForSequenceClassification, tiny_bert, tmp_path)


def test_the_vocabulary_head_is_a_rounded_copy_and_the_embedding_stays(opt, kind):
    manifest = Bundle.open(opt / "bundle").manifest
    names = {p.name for p in manifest.parameters}
    tied = next(m for m in manifest.quantization.matrices if "embed_tokens" in m.name)
    assert tied.name in names
    assert len(manifest.quantization.matrices) == len(manifest.branches) + 1


def test_eps_0_gives_g_0(opt):
    """Two losses of equal weights are equal bits, so a difference is the perturbation's alone."""
    from zoedge.runtime.passes.engine import Engine
    from zoedge.runtime.spaces.parameters import load_buffers

    bundle = Bundle.open(opt / "bundle")
    engine = Engine(bundle.path("loss.onnx"), load_buffers(bundle, Cpu()), device=Cpu())
    inputs = INPUTS | {"label_positions": np.array([[1, 3], [2, 5]]), "labels": np.array([[4, 8], [9, -100]])}
    assert engine.run(inputs)["loss"].tobytes() == engine.run(inputs)["loss"].tobytes()


def test_branches_move_between_directions_of_activations(opt, tmp_path):
    settings = ("--steps", 3, "--batch-size", 4, "--lora-space", "activations")
    run("tune", opt / "bundle", "-d", opt / "rows.jsonl", "-o", tmp_path / "run", *settings)
    weights = Run.open(tmp_path / "run").weights("last")
    assert any(np.abs(value).max() > 0 for name, value in weights.items() if "lora_B" in name)
    run("replay", tmp_path / "run", "-o", tmp_path / "rebuilt")


def test_inspect_says_what_was_rounded(opt, kind):
    lines = run("inspect", opt / "bundle").output.splitlines()
    assert any(line.startswith("quantised  ") and f"{kind}: 13 matrices" in line for line in lines)


def test_full_is_refused(tiny_opt, tmp_path):
    failed = run("export", tiny_opt, "-o", tmp_path / "b", "--quantize", "int8", "--train", "full", code=2)
    assert "which --quantize int8 rounds" in failed.stderr
    assert not (tmp_path / "b").exists()
