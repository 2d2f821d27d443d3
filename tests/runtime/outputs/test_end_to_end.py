"""Exported models, tuned to random values, leave in all four forms and compute the same everywhere."""

import subprocess
import sys
import textwrap
import warnings
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_adapter_files, write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TOLERANCE = {"rtol": 1e-3, "atol": 2e-4}  # float32 through a few layers, in another order of sums

STOCK = """
    import json, sys
    import numpy
    sys.modules["zoedge"] = None  # importing it fails
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
    inputs = dict(numpy.load(sys.argv[2]))
    numpy.save(sys.argv[3], session.run(["logits"], {i.name: inputs[i.name] for i in session.get_inputs()})[0])
"""


class Case(NamedTuple):
    """A tiny model and how it is exported."""

    model: str
    auto: str
    train: tuple[str, ...]
    labels: tuple[str, ...] = ()


FAST = {
    "roberta": Case(
        "tiny_roberta", "AutoModelForSequenceClassification", ("lora", "bitfit"), ("a", "b", "c")
    ),
    "llama": Case("tiny_llama", "AutoModelForCausalLM", ("full",)),
}
SLOW = {
    "gpt2": Case("tiny_gpt2", "AutoModelForCausalLM", ("lora",)),
    "bert": Case("tiny_bert", "AutoModelForSequenceClassification", ("lora", "head", "norm")),
    "roberta-kept": Case("tiny_roberta", "AutoModelForSequenceClassification", ("lora", "head")),
    "llama-lora": Case("tiny_llama", "AutoModelForCausalLM", ("lora", "norm")),
    "opt": Case("tiny_opt", "AutoModelForCausalLM", ("lora", "bitfit")),
    "masked-bert": Case("tiny_bert_mlm", "AutoModelForMaskedLM", ("lora",)),
    "vit": Case("tiny_vit", "AutoModelForImageClassification", ("lora", "head")),
    "resnet": Case("tiny_resnet", "AutoModelForImageClassification", ("full",)),
}
CASES = [pytest.param(case, id=name) for name, case in FAST.items()]
CASES += [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]


@contextmanager
def quiet():
    """The libraries warn about their own defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Tuned(NamedTuple):
    """A bundle, values for its trainable tensors, and logits of the loss graph's weights."""

    case: Case
    source: object
    bundle: Bundle
    values: dict
    inputs: dict


@pytest.fixture(scope="module", params=CASES)
def tuned(request, tmp_path_factory):
    from zoedge.export import to_bundle

    case = request.param
    source = request.getfixturevalue(case.model)
    folder = tmp_path_factory.mktemp("out") / "bundle"
    with quiet():
        bundle = to_bundle(source, folder, train=case.train, labels=case.labels)
    rng = np.random.default_rng(3)
    values = {}
    for name, buffer in load_buffers(bundle, Cpu()).items():
        step = 0.3 * (np.abs(buffer).mean() + 0.05) * rng.standard_normal(buffer.shape, np.float32)
        values[name] = buffer + step
    return Tuned(case, source, bundle, values, _inputs(bundle, rng))


def _inputs(bundle, rng):
    """Inputs of model.onnx: padded text or pixels."""
    inputs = {}
    for port in bundle.manifest.model_inputs:
        if port.name == "pixel_values":
            shape = [3 if isinstance(d, str) else d for d in port.shape]
            inputs[port.name] = rng.standard_normal(shape, np.float32)
        elif port.name == "attention_mask":
            inputs[port.name] = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]], np.int64)
        elif port.name == "token_type_ids":
            inputs[port.name] = np.zeros((3, 7), np.int64)
        else:
            inputs[port.name] = rng.integers(5, 60, (3, 7))
    return inputs


def _expected_losses(tuned):
    """The loss graph's own losses at the tuned values, and the targets they are of."""
    manifest = tuned.bundle.manifest
    buffers = load_buffers(tuned.bundle, Cpu())
    for name, value in tuned.values.items():
        np.copyto(buffers[name], value)
    given = dict(tuned.inputs)
    if manifest.task in ("text-generation", "fill-mask"):
        given["label_positions"] = np.array([[1, 2], [0, 3], [4, 5]], np.int64)
        given["labels"] = np.array([[9, 8], [7, 6], [5, -100]], np.int64)
    else:
        given["labels"] = np.array([0, 1, 1], np.int64)
    return given, Engine(tuned.bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given)["loss"]


def _losses(logits, given):
    """Cross-entropy of plain logits, in float64."""
    labels = given["labels"]
    logits = logits.astype(np.float64)
    if "label_positions" in given:
        logits = np.take_along_axis(logits, given["label_positions"][:, :, None], 1)
    else:
        logits, labels = logits[:, None, :], labels[:, None]
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    own = np.take_along_axis(log_p, np.maximum(labels, 0)[:, :, None], 2)[:, :, 0]
    counted = labels >= 0
    return -(own * counted).sum(1) / counted.sum(1)


def _torch_logits(model, inputs):
    with torch.no_grad(), quiet():
        return model.eval()(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}
        ).logits.numpy()


@pytest.fixture(scope="module")
def merged(tuned, tmp_path_factory):
    """The merged folder, and the logits that a script without zoedge gets from it."""
    folder = tmp_path_factory.mktemp("merged") / "model"
    write_merged(tuned.bundle, tuned.values, folder)
    np.savez(folder.parent / "in.npz", **tuned.inputs)
    out = folder.parent / "out.npy"
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(STOCK),
        str(folder),
        str(folder.parent / "in.npz"),
        str(out),
    ]
    subprocess.run(command, check=True, cwd=folder.parent)
    return folder, np.load(out)


def test_a_stock_script_gets_the_tuned_losses(tuned, merged):
    given, losses = _expected_losses(tuned)
    np.testing.assert_allclose(_losses(merged[1], given), losses, **TOLERANCE)
    before = Engine(
        tuned.bundle.path("loss.onnx"), load_buffers(tuned.bundle, Cpu()), device=Cpu(), threads=1
    ).run(given)["loss"]
    assert np.abs(before - losses).max() > 0.05  # tuning made a difference


def test_transformers_loads_the_merged_folder(tuned, merged):
    folder, logits = merged
    with quiet():
        auto = getattr(transformers, tuned.case.auto)
        model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    np.testing.assert_allclose(_torch_logits(model, tuned.inputs), logits, **TOLERANCE)


def test_peft_loads_the_adapter(tuned, merged, tmp_path):
    if not tuned.bundle.manifest.branches:
        with pytest.raises(InputError, match="has no branches to write as an adapter"):
            write_adapter_files(tuned.bundle, tuned.values, tmp_path / "peft")
        return
    assert write_adapter_files(tuned.bundle, tuned.values, tmp_path / "peft") == []
    with quiet():
        settings = {"num_labels": len(tuned.case.labels)} if tuned.case.labels else {}
        auto = getattr(transformers, tuned.case.auto)
        base = auto.from_pretrained(tuned.source, ignore_mismatched_sizes=True, **settings)
        model = peft.PeftModel.from_pretrained(base, tmp_path / "peft")
    np.testing.assert_allclose(_torch_logits(model, tuned.inputs), merged[1], **TOLERANCE)


def test_onnxruntime_loads_the_adapter(tuned, merged, tmp_path):
    if not tuned.bundle.manifest.branches:
        assert not (tuned.bundle.folder / "model_adapters.onnx").exists()
        return
    assert write_adapter_files(tuned.bundle, tuned.values, tmp_path / "a.onnx_adapter") == []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    path = tuned.bundle.path("model_adapters.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    adapter, run = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    adapter.Load(str(tmp_path / "a.onnx_adapter"))
    run.add_active_adapter(adapter)
    np.testing.assert_allclose(session.run(["logits"], tuned.inputs, run)[0], merged[1], **TOLERANCE)
