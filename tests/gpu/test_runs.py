"""Whole runs on a GPU: they learn, repeat, resume, and are replayed on the processor to the same bits."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.gpu.rows import rows_for
from zoedge.errors import InputError
from zoedge.options import make
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.replay import replay
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import tune

pytestmark = pytest.mark.gpu

STEPS = 6
# of each: a bundle and a method whose moves are element-wise
RUNS = [
    ("mlp-full", "mezo"), ("mlp-full", "zo-adam"), ("mlp-full", "zo-sgd-sign"), ("mlp-full", "meazo"),
    ("mlp-full", "zo-sgd-momentum"), ("mlp-lora", "fzoo"), ("cnn-full", "mezo"), ("cnn-full", "fzoo"),
    ("opt-full", "mezo"), ("opt-full", "sparse-mezo"), ("opt-lora", "fzoo"), ("opt-lora", "meazo"),
    ("opt-int8", "mezo"), ("opt-int4", "fzoo"), ("encoder-head", "fzoo"),
]  # fmt: skip


def options(provider, method="mezo", **changes):
    precision = changes.pop("precision", "float32") if provider == "cuda" else "auto"
    given = {"method": method, "steps": STEPS, "batch_size": 8, "eval_every": 3, "provider": provider}
    return make(given | {"precision": precision} | changes)


def saved(run, which="last"):
    return {name: value.tobytes() for name, value in Run.open(run).weights(which).items()}


class Stop(Silent):
    """Interrupts a run after a step, as Ctrl-C does."""

    def __init__(self, at):
        self.at = at

    def step(self, row, *, report):
        if row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("name", "method"), RUNS)
def test_replayed_on_the_processor(bundles, tmp_path, name, method, precision):
    run = tmp_path / "run"
    tune(bundles / name, rows_for(name), run, options("cuda", method, precision=precision))
    assert saved(run) != {}
    again = replay(run, tmp_path / "again", provider="cpu")
    assert again.steps == STEPS
    assert again.path.read_bytes() == (run / "last" / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
@pytest.mark.parametrize(("name", "method"), RUNS)
def test_a_run_of_the_processor_replayed_here(bundles, tmp_path, name, method, placement):
    run = tmp_path / "run"
    tune(bundles / name, rows_for(name), run, options("cpu", method, placement=placement))
    again = replay(run, tmp_path / "again", provider="cuda")
    assert again.path.read_bytes() == (run / "last" / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    ("name", "method"),
    [("mlp-full", "zo-adam"), ("opt-full", "mezo"), ("opt-lora", "fzoo"), ("encoder-head", "fzoo")],
)
def test_resumed_as_if_never_interrupted(bundles, tmp_path, name, method, precision):
    settings, data = options("cuda", method, precision=precision), rows_for(name)
    tune(bundles / name, data, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        tune(bundles / name, data, tmp_path / "parts", settings, progress=Stop(2))
    tune(bundles / name, data, tmp_path / "parts", settings, resume=True)
    journals = [(tmp_path / n / "journal.zoj").read_bytes() for n in ("whole", "parts")]
    assert journals[0] == journals[1]
    assert saved(tmp_path / "whole") == saved(tmp_path / "parts")


@pytest.mark.parametrize("method", ["fzoo", "zo-adam"])
def test_it_learns(bundles, tmp_path, method):
    data = rows_for("mlp-full")
    before = evaluate(bundles / "mlp-full", data, provider="cuda")
    lr = {"fzoo": 0.02, "zo-adam": 0.01}[method]
    settings = options("cuda", method, steps=150, lr=lr, batch_size=32, precision="auto")
    tune(bundles / "mlp-full", data, tmp_path / "run", settings)
    after = evaluate(tmp_path / "run", data, provider="cuda")
    assert after["loss"] < 0.8 * before["loss"]


@pytest.mark.parametrize("name", ["mlp-full", "cnn-full", "opt-lora", "opt-int4", "encoder-head"])
def test_evaluations_and_predictions_are_the_processors(bundles, tmp_path, name):
    run, data = tmp_path / "run", rows_for(name)
    tune(bundles / name, data, run, options("cuda", "fzoo"))
    found, expected = (evaluate(run, data, provider=p) for p in ("cuda", "cpu"))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-2)
    here, there = (list(predict(run, data=data, provider=p, max_new_tokens=4)) for p in ("cuda", "cpu"))
    assert len(here) == len(there) > 0
    same = [_said(a) == _said(b) for a, b in zip(here, there, strict=True)]
    assert np.mean(same) > 0.9  # where two answers are all but equally likely, rounding may choose


def _said(prediction):
    """What is predicted, without numbers that rounding changes."""
    return {k: v for k, v in prediction.items() if isinstance(v, str | int)}


def test_a_process_without_cupy_is_told_how_to_get_it(bundles):
    code = """
        import sys
        sys.modules["cupy"] = None
        from zoedge.errors import ZoedgeError
        from zoedge.runtime.device import open_device
        try:
            open_device("cuda")
        except ZoedgeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "needs the package cupy: pip install" in done.stdout


def test_an_onnxruntime_without_cuda_is_told_apart(monkeypatch):
    from zoedge.runtime.device import open_device
    from zoedge.runtime.device.ort import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=r"build of onnxruntime for GPUs"):
        open_device("cuda")
