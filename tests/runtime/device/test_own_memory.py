"""A device with memory of its own: what is logged, shown, estimated and refused of it."""

import io
import json
import os
import time

import pytest

from tests.builders.devices import Counting
from tests.builders.networks import mlp, rows
from tests.zoedge.commands import error, run
from zoedge.errors import RefusedError, ZoedgeError
from zoedge.export import to_bundle
from zoedge.options import make
from zoedge.runtime import estimate as estimates
from zoedge.runtime.device import DEVICES, Cpu, open_device
from zoedge.runtime.estimate import estimate
from zoedge.runtime.machine.memory import Held
from zoedge.runtime.preflight import check as preflight
from zoedge.runtime.preflight import rehearsal
from zoedge.runtime.preflight.rehearsal import TooMuchError
from zoedge.runtime.preflight.trial import Ask, Pass, Trial, try_out
from zoedge.runtime.replay import replay
from zoedge.runtime.run.progress import Lines
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import tune

MIB = 1 << 20
SETTINGS = {"batch_size": 8, "steps": 3, "eval_every": 0, "threads": 1, "method": "mezo"}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(DEVICES, "counting", Counting)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 60)
    to_bundle(folder / "mlp.onnx", folder / "bundle", task="classification", train=("full",))
    return folder


def tuned(place, folder, provider, **settings):
    out = io.StringIO()
    options = make({**SETTINGS, "provider": provider, **settings})
    tune(place / "bundle", place / "data.jsonl", folder, options, progress=Lines(out))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return log, out.getvalue()


def test_a_log_has_its_peak_and_the_processor_s_has_none(place, tmp_path):
    log, shown = tuned(place, tmp_path / "there", "counting", log_every=1)
    elements = sum(p.size for p in Run.open(tmp_path / "there").weights("last").values())
    assert all(row["peak_device_bytes"] >= 4 * elements for row in log)
    assert all(
        " MB and 0 MB on the device" in line for line in shown.splitlines() if line.startswith("step ")
    )
    assert "\ndevice     counting, float32\n" in shown
    here, shown = tuned(place, tmp_path / "here", "cpu", log_every=1)
    assert not any("peak_device_bytes" in row for row in here)
    assert "on the device" not in shown
    assert "\ndevice     cpu, float32\n" in shown


def test_a_run_keeps_its_precision_and_sessions_are_given_frozen_tensors_where_asked(
    place, tmp_path, monkeypatch
):
    Counting.given_frozen.clear()
    tuned(place, tmp_path / "one", "counting")
    assert not any(Counting.given_frozen)
    assert Run.open(tmp_path / "one").options.precision == "float32"
    monkeypatch.setattr(Counting, "takes_frozen", True)
    Counting.given_frozen.clear()
    tuned(place, tmp_path / "two", "counting")
    run("eval", tmp_path / "two", "-d", place / "data.jsonl", "--provider", "counting")
    assert Counting.given_frozen
    assert all(Counting.given_frozen)


def test_a_run_made_there_replays_where_the_device_is_not(place, tmp_path, monkeypatch):
    tuned(place, tmp_path / "run", "counting")
    wanted = (tmp_path / "run" / "last" / "tensors.safetensors").read_bytes()
    there = replay(tmp_path / "run", tmp_path / "there", provider="counting").path
    assert there.read_bytes() == wanted
    monkeypatch.delitem(DEVICES, "counting")
    assert replay(tmp_path / "run", tmp_path / "here").path.read_bytes() == wanted
    run("replay", tmp_path / "run", "-o", tmp_path / "command", "--provider", "cpu")
    assert "--provider 'counting' is not supported" in error(
        "replay", tmp_path / "run", "-o", tmp_path / "no", "--provider", "counting"
    )


def test_an_estimate_tells_both(place, monkeypatch):
    def here(ask):
        return try_out(ask, open_device(ask.options.provider, 1), time.time())

    monkeypatch.setattr(estimates, "rehearse", here)
    found = estimate(place / "bundle", place / "data.jsonl", {**SETTINGS, "provider": "counting"})
    assert found.device_memory == "counter"
    assert found.peak_device_bytes > 0 < found.device_trained_bytes
    assert found.peak_anonymous_bytes > 0
    shown = run("estimate", place / "bundle", "--provider", "counting", "--steps", 2).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("device")]
    assert "MiB at the peak of the counter; the manifest lets expect " in line
    cpu = estimate(place / "bundle", place / "data.jsonl", SETTINGS)
    assert (cpu.device_memory, cpu.peak_device_bytes, cpu.device_trained_bytes) == ("", None, 0)
    assert "\ndevice" not in run("estimate", place / "bundle", "--steps", 2).stdout


@pytest.fixture
def small(monkeypatch):
    """Let the device have little memory, and rehearsals show what a function of the ask says."""

    def shrink(size, need):
        monkeypatch.setattr(Counting, "size", size)
        monkeypatch.setattr(preflight, "_CLEAR", 0.0)
        asked = []

        def rehearse(ask):
            asked.append(ask)
            held = Held(device=need(ask))
            if held.device > ask.may_hold["device"]:
                raise TooMuchError("device")
            return Trial(
                most=held, ready=Held(), largest=Pass(rows=1, width=1), passes=1.0,
                forward_seconds=0.0, moves_seconds=0.0, start_seconds=0.0,
            )  # fmt: skip

        monkeypatch.setattr(preflight, "rehearse", rehearse)
        return asked

    return shrink


@pytest.mark.parametrize(
    ("need", "advice"),
    [
        (lambda ask: 10 * MIB // (9 - (ask.options.micro_batch_size or 8)), "use --micro-batch-size "),
        (lambda ask: MIB if ask.options.precision == "float16" else 3 * MIB, "use --precision float16"),
        (lambda ask: 3 * MIB, "export with --"),
    ],
)
def test_a_run_that_its_memory_can_t_hold_is_refused(place, tmp_path, small, need, advice):
    asked = small(2 * MIB, need)
    with pytest.raises(
        RefusedError, match="this run needs more than the 2 MiB of the memory of the counter: "
    ) as caught:
        tuned(place, tmp_path / "run", "counting")
    assert advice in str(caught.value)
    assert not any(ask.options.prepack == "no" for ask in asked)  # would change nothing there


def test_one_that_fits_is_rehearsed_and_goes_on(place, tmp_path, small):
    asked = small(2 * MIB, lambda ask: MIB)
    tuned(place, tmp_path / "run", "counting")
    assert [set(ask.may_hold) for ask in asked] == [{"anonymous", "device"}]


@pytest.mark.parametrize(
    ("raised", "device", "code"),
    [
        (ZoedgeError("bad_alloc"), Cpu, 75),
        (MemoryError(), Cpu, 75),
        (ZoedgeError("Failed to allocate memory"), Counting, 76),
    ],
)
def test_a_rehearsal_tells_by_its_exit_code_which_memory_was_short(monkeypatch, raised, device, code):
    ended = []

    def try_out_(ask, device, started):
        raise raised

    monkeypatch.setitem(DEVICES, "tried", device)
    monkeypatch.setattr(rehearsal, "try_out", try_out_)
    monkeypatch.setattr(os, "_exit", ended.append)
    ask = Ask(bundle="b", data=None, options=make({"provider": "tried"}))
    with pytest.raises((ZoedgeError, MemoryError)):
        rehearsal._watched(ask, 0.0)
    assert ended[0] == code
    assert str(TooMuchError("device")) != str(TooMuchError("anonymous"))


def test_a_rehearsal_ends_itself_above_what_it_may_hold(monkeypatch):
    class Ended(Exception):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(Counting, "held", lambda self: Held(anonymous=5, device=7))
    with pytest.raises(Ended, match="76"):
        rehearsal._stop_above(Counting(), {"anonymous": 5, "device": 6})
    with pytest.raises(Ended, match="75"):
        rehearsal._stop_above(Counting(), {"anonymous": 4, "device": 6})
