"""A device of one file: registered, it runs every method, and a journal means the same there and here."""

import pytest

from tests.builders.devices import Counting, Reference
from tests.builders.networks import mlp, rows
from tests.rates import ANY_TENSORS
from zoedge.export import to_bundle
from zoedge.methods import RECIPES
from zoedge.options import make
from zoedge.runtime.device import DEVICES
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.records import Step
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.tune import tune

from ..run.test_new_method import TOY

SETTINGS = {"batch_size": 8, "steps": 4, "eval_every": 2, "threads": 1}
CASES = {
    "in place": ("full", {"placement": "in-place", "weight_decay": 0.1}),
    "out of place": ("full", {"placement": "out-of-place", "weight_decay": 0.1}),
    "branches": ("lora", {}),
    "factors": ("lora", {"lora_space": "factors"}),
    "several points a pass": ("lora", {"points_per_pass": 2}),
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(DEVICES, "counting", Counting)
    monkeypatch.setitem(DEVICES, "cpu", Reference)
    monkeypatch.setitem(RECIPES, "toy", TOY)
    Counting.calls.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 60)
    for train in ("full", "lora"):
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


def records(run):
    return [r for r in journal.read_journal(run / journal.JOURNAL_FILE).records if isinstance(r, Step)]


@pytest.mark.parametrize("method", [*sorted(RECIPES), "toy"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_same_records_and_weights_on_either(place, tmp_path, case, method):
    train, settings = CASES[case]
    # a projection among the steps
    own = ANY_TENSORS.get(method, {}) | ({"project_every": 2, "project_steps": 1} if method == "dizo" else {})
    for provider in ("cpu", "counting"):
        options = make({**SETTINGS, "method": method, "provider": provider, **settings, **own})
        tune(place / train, place / "data.jsonl", tmp_path / provider, options)
    assert records(tmp_path / "cpu") == records(tmp_path / "counting")
    weights = [(tmp_path / p / "last" / "tensors.safetensors").read_bytes() for p in ("cpu", "counting")]
    assert weights[0] == weights[1]
    assert Counting.calls["add_terms"] + Counting.calls["run"] > 0


def test_it_resumes_replays_evaluates_and_predicts(place, tmp_path):
    here = {**SETTINGS, "method": "mezo", "provider": "counting", "lr_schedule": "constant"}
    tune(place / "full", place / "data.jsonl", tmp_path / "whole", make(here))
    tune(place / "full", place / "data.jsonl", tmp_path / "parts", make(here | {"steps": 2}))
    tune(place / "full", place / "data.jsonl", tmp_path / "parts", make(here), resume=True)
    files = [tmp_path / run / "last" / "tensors.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert replay(tmp_path / "whole", tmp_path / "replayed").path.read_bytes() == files[0].read_bytes()
    told = [evaluate(tmp_path / "whole", place / "data.jsonl", provider=p) for p in ("cpu", "counting")]
    assert told[0] == told[1]
    first = [
        next(predict(tmp_path / "whole", data=place / "data.jsonl", provider=p)) for p in ("cpu", "counting")
    ]
    assert first[0] == first[1]


def test_inputs_are_given_once_a_step_and_points_once_a_pass(place, tmp_path):
    settings = {**SETTINGS, "method": "mezo", "queries": 4, "eval_every": 0, "val_size": 0.0}
    counts = []
    for steps in (2, 5):
        Counting.calls.clear()
        options = make({**settings, "steps": steps, "provider": "counting", "prefix_cache": "no"})
        tune(place / "full", place / "data.jsonl", tmp_path / str(steps), options, preflight=False)
        counts.append(dict(Counting.calls))
    three = {name: counts[1][name] - counts[0][name] for name in ("put", "run", "add_terms")}
    assert three["run"] == 3 * 8  # two points a query
    assert three["put"] == 3 * 2  # x and labels
    assert three["add_terms"] == 3 * 8 + 3  # each point, and what brings a step's update
