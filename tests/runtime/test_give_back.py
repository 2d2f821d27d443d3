"""Freed memory goes back to the system, and a run's start never holds two sessions at once."""

import ctypes
import weakref

import pytest

from tests.builders.networks import mlp, rows
from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime import job
from zoedge.runtime.machine import memory
from zoedge.runtime.start import activations
from zoedge.runtime.tune import tune


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_freed_in_pieces_is_given_back():
    memory.give_back()  # what other tests of this process left in pieces
    before = memory.memory_held().anonymous
    big = [bytes(40_000) for _ in range(3000)]
    last = bytes(40_000)  # at the end of the heap, which then can't shrink by itself
    grown = memory.memory_held().anonymous - before
    del big
    memory.give_back()
    assert grown > 40 << 20
    assert memory.memory_held().anonymous - before < grown // 4
    assert len(last) == 40_000


def test_the_session_of_the_directions_is_gone_before_the_runs_own_opens(tmp_path, monkeypatch):
    bundle = to_bundle(mlp(tmp_path / "m.onnx"), tmp_path / "b", task="classification", train=("lora",))
    rows(tmp_path / "data.jsonl", 40)
    engine, choose = activations.Engine, job.choose_way
    opened, left = [], []

    def watched(*args, **given):
        made = engine(*args, **given)
        opened.append(weakref.ref(made))
        return made

    def chosen(*args):
        left.append([one() for one in opened])
        return choose(*args)

    monkeypatch.setattr(activations, "Engine", watched)
    monkeypatch.setattr(job, "choose_way", chosen)
    settings = TuneOptions(steps=1, val_size=0.0, lora_space="activations")
    tune(bundle.folder, tmp_path / "data.jsonl", tmp_path / "run", settings)
    assert left == [[None]]
