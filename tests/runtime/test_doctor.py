"""What the doctor finds on a provider, and what a run makes of it."""

import json
import math

import numpy as np
import pytest

from tests.builders.devices import Counting, CountingSession, Hidden
from tests.builders.networks import mlp, rows
from tests.zoedge.commands import error, run
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.options import make
from zoedge.runtime.device import DEVICES, Cpu
from zoedge.runtime.doctor import doctor
from zoedge.runtime.passes import live
from zoedge.runtime.preflight.fineness import Fineness
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import tune

SETTINGS = {"batch_size": 8, "steps": 2, "eval_every": 0, "threads": 1, "method": "mezo"}


class Stale(Counting):
    """Sessions have a copy of one tensor."""

    def open(self, graph, buffers, **settings):
        name = sorted(buffers)[0]
        return super().open(graph, {**buffers, name: self.copy(buffers[name])}, **settings)


class Coarse(Counting):
    """Losses come in steps."""

    precision = "float16"
    step = 2.0**-6

    def open(self, graph, buffers, **settings):
        inner = super().open(graph, buffers, **settings)

        class Session(CountingSession):
            def run(self, given, wanted):
                found = inner.run(given, wanted)
                size = np.float32(Coarse.step)
                return [
                    Hidden(np.rint(value.array / size) * size) if name.endswith("loss") else value
                    for name, value in zip(wanted, found, strict=True)
                ]

        return Session(inner, self.calls)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for device in (Counting, Stale, Coarse):
        monkeypatch.setitem(DEVICES, device.__name__.lower(), device)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 60)
    for train in ("full", "lora"):
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_processor_is_well(place, train):
    found = doctor(place / train, place / "data.jsonl", SETTINGS)
    assert (found.provider, found.precision, found.dead, found.restored) == ("cpu", "float32", (), True)
    assert found.trainables == len(Bundle.open(place / train).manifest.trainable)
    assert list(found.nodes) == ["CPUExecutionProvider"]
    assert sum(found.nodes["CPUExecutionProvider"].values()) > 5
    assert 0.0 < found.loss_noise < 1e-5
    assert 0.0 < found.least_eps < found.usual_eps == found.eps
    assert found.forward_seconds > 0.0
    assert (found.rows, found.width, found.restaged_bytes) == (8, 1, 0)


def test_what_a_step_brings_to_a_device_of_its_own_memory(place):
    found = doctor(place / "full", place / "data.jsonl", {**SETTINGS, "provider": "counting"})
    features = Bundle.open(place / "full").manifest.inputs[0].shape[1]
    assert found.restaged_bytes == 8 * (4 * features + 8)  # floats, and a label of 64 bits
    assert found.dead == ()


def test_without_data_rows_are_made_up(place):
    assert doctor(place / "full", options=SETTINGS).dead == ()


def test_a_tensor_that_is_not_live_is_named_and_no_run_starts(place, tmp_path):
    stale = min(p.name for p in Bundle.open(place / "full").manifest.trainable)
    found = doctor(place / "full", place / "data.jsonl", {**SETTINGS, "provider": "stale"})
    assert found.dead == (stale,)
    with pytest.raises(InputError, match=f"--provider stale doesn't follow changes of {stale}, so tuning"):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", make({**SETTINGS, "provider": "stale"}))
    assert not (tmp_path / "run" / "journal.zoj").exists()
    tune(place / "full", place / "data.jsonl", tmp_path / "run", make({**SETTINGS, "provider": "counting"}))


def test_what_does_nothing_on_the_processor_either_is_not_dead(place, monkeypatch):
    monkeypatch.setattr(live, "_CLEAR", math.inf)  # as if it moved the loss by rounding alone
    assert doctor(place / "full", place / "data.jsonl", {**SETTINGS, "provider": "stale"}).dead == ()


def test_a_coarse_loss_needs_a_longer_perturbation(place):
    found = doctor(place / "full", place / "data.jsonl", {**SETTINGS, "provider": "coarse", "eps": 1e-3})
    assert found.usual_eps == 1e-3 < found.least_eps <= found.eps
    assert found.loss_noise == pytest.approx(Coarse.step / math.sqrt(12.0 * 8.0), rel=1.0)


@pytest.mark.parametrize(
    ("least", "usual", "eps"),
    [(1e-4, 1e-3, 1e-3), (2.1e-3, 1e-3, 3e-3), (9.5e-3, 1e-3, 1e-2), (2e-2, 1e-3, 2e-2)],
)
def test_the_suggestion_has_one_digit(least, usual, eps):
    assert Fineness(0.0, least).eps(usual) == eps


def test_a_run_in_a_coarse_precision_takes_the_doctor_s_eps_unless_it_is_given_one(
    place, tmp_path, monkeypatch
):
    asked = {**SETTINGS, "provider": "coarse", "precision": "float16"}
    monkeypatch.setattr(Coarse, "__init__", lambda self, *_: Counting.__init__(self))
    monkeypatch.setattr(Coarse, "step", 2.0**-3)
    said = []

    class Told:
        start = step = evaluation = close = lambda self, *args, **kwargs: None
        note = staticmethod(said.append)

    usual = tune(place / "lora", place / "data.jsonl", tmp_path / "usual", make(SETTINGS)).options.eps
    tune(place / "lora", place / "data.jsonl", tmp_path / "found", make(asked), progress=Told())
    found = Run.open(tmp_path / "found").options.eps
    assert found > usual
    assert any(note.startswith(f"eps is {found:g} and not {usual:g}: in float16 the loss") for note in said)
    tune(place / "lora", place / "data.jsonl", tmp_path / "given", make({**asked, "eps": 1e-3}))
    assert Run.open(tmp_path / "given").options.eps == 1e-3


def test_what_is_missing_is_said_with_what_it_costs(place, monkeypatch):
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n in ("numba", "cupy") else there(n))
    found = doctor(place / "full", options=SETTINGS)
    assert "8 times slower" in found.missing["numba"]
    assert found.missing["cupy"] == "--provider cuda is not possible"


def test_an_onnxruntime_that_does_not_tell_places(place, monkeypatch):
    monkeypatch.setattr("zoedge.runtime.device.cpu.places", lambda session: None)
    assert doctor(place / "full", options=SETTINGS).nodes is None
    assert "onnxruntime doesn't tell where they run" in run("doctor", place / "full").stdout


def test_the_command(place):
    words = ("doctor", place / "full", "--data", place / "data.jsonl", "--batch-size", 8, "--threads", 1)
    lines = run(*words).stdout.splitlines()
    heads = ["provider", "nodes", "trainable", "loss", "eps", "a", "to"]
    assert [line.split()[0] for line in lines if not line.startswith("missing")] == heads
    assert lines[0] == "provider    cpu, passes in float32"
    told = json.loads(run(*words, "--json").stdout)
    assert told["nodes"].keys() == {"CPUExecutionProvider"}
    assert told["dead"] == []
    stale = run(*words, "--provider", "stale").stdout
    assert "1 of 4 tensors don't reach the loss: " in stale
    coarse = run(*words, "--provider", "coarse", "--eps", "1e-4").stdout
    assert "the usual 0.0001 is lost in rounding" in coarse
    assert "--provider 'tpu' is not supported" in error(*words, "--provider", "tpu", code=2)


def test_the_processor_needs_no_check(place, monkeypatch, tmp_path):
    monkeypatch.setattr(live, "Engine", None)
    assert Cpu.shown_live
    tune(place / "full", place / "data.jsonl", tmp_path / "run", make(SETTINGS))


def test_a_loss_that_never_changes_suggests_nothing(place, monkeypatch):
    monkeypatch.setattr(Coarse, "step", 1e9)
    found = doctor(place / "full", place / "data.jsonl", {**SETTINGS, "provider": "coarse"})
    assert math.isinf(found.least_eps)
    assert found.eps == found.usual_eps
    assert (
        json.loads(run("doctor", place / "full", "--provider", "coarse", "--json").stdout)["least_eps"]
        is None
    )
    assert (
        "no eps was found whose losses differ" in run("doctor", place / "full", "--provider", "coarse").stdout
    )
