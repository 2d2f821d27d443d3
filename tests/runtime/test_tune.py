"""Runs end to end on a small network: they learn, repeat, resume and replay bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from tests.builders.networks import mlp, rows
from tests.rates import ANY_TENSORS, METHODS, RATES
from zoedge.errors import BundleError, InputError, ZoedgeError
from zoedge.export import to_bundle
from zoedge.options import TuneOptions, make
from zoedge.runtime.data.facts import Facts
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.job import read_rows
from zoedge.runtime.records import Eval, Step
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.run.run_folder import Run, locked
from zoedge.runtime.tune import dry_run, tune


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 200)
    rows(folder / "test.jsonl", 100, seed=1)
    for train in ("full", "lora"):
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


def options(method="fzoo", **changes):
    return make(
        {"method": method, "steps": 20, "lr": RATES[method].network, "batch_size": 32, "eval_every": 5}
        | ANY_TENSORS.get(method, {})
        | changes
    )


def tensors(run, which="last"):
    return {name: value.tobytes() for name, value in Run.open(run).weights(which).items()}


class Stop(Silent):
    """Interrupts a run after a step, as Ctrl-C does."""

    def __init__(self, at):
        self.at = at

    def step(self, row, *, report):
        if row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_two_runs_with_one_seed_are_one_run(place, tmp_path, method, train):
    for name in ("a", "b"):
        tune(place / train, place / "data.jsonl", tmp_path / name, options(method))
    assert (tmp_path / "a" / "journal.zoj").read_bytes() == (tmp_path / "b" / "journal.zoj").read_bytes()
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")


def test_another_seed_is_another_run(place, tmp_path):
    for seed in (0, 42):
        tune(place / "full", place / "data.jsonl", tmp_path / str(seed), options(seed=seed))
    assert tensors(tmp_path / "0") != tensors(tmp_path / "42")


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_resume_and_replay_give_the_bits_of_the_uninterrupted_run(place, tmp_path, method, train, placement):
    settings = options(method, placement=placement, refresh=6)
    tune(place / train, place / "data.jsonl", tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        tune(place / train, place / "data.jsonl", tmp_path / "parts", settings, progress=Stop(7))
    assert (
        sum(isinstance(r, Step) for r in journal.read_journal(tmp_path / "parts" / "journal.zoj").records)
        == 7
    )
    tune(place / train, place / "data.jsonl", tmp_path / "parts", settings, resume=True)
    assert (tmp_path / "parts" / "journal.zoj").read_bytes() == (
        tmp_path / "whole" / "journal.zoj"
    ).read_bytes()
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    assert tensors(tmp_path / "parts", "best") == tensors(tmp_path / "whole", "best")
    replayed = replay(tmp_path / "whole", tmp_path / "replayed")
    assert replayed.steps == 20
    assert replayed.path.read_bytes() == (tmp_path / "whole" / "last" / "tensors.safetensors").read_bytes()


def test_resuming_with_another_length_says_what_becomes_of_the_schedule(place, tmp_path):
    notes = []

    class Listen(Silent):
        def note(self, text):
            notes.append(text)

    settings = TuneOptions(steps=3, lr_schedule="linear", val_size=0.0)
    tune(place / "full", place / "data.jsonl", tmp_path / "run", settings)
    tune(place / "full", place / "data.jsonl", tmp_path / "run", settings, resume=True, progress=Listen())
    assert notes == []
    longer = TuneOptions(steps=5)
    tune(place / "full", place / "data.jsonl", tmp_path / "run", longer, resume=True, progress=Listen())
    assert notes == [
        "the run was begun with steps 3 and goes on with steps 5: from here on its linear learning rate falls over "
        "the new length"
    ]


def test_a_journal_of_another_noise_version_is_refused(place, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr("zoedge.runtime.tune.NOISE_VERSION", 1)
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options())
    with pytest.raises(BundleError, match="noise version 1"):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options(), resume=True)
    with pytest.raises(BundleError, match="noise version 1"):
        replay(tmp_path / "run", tmp_path / "replayed")


def test_resume_without_its_snapshot_replays_the_journal(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "whole", options())
    with pytest.raises(KeyboardInterrupt):
        tune(place / "full", place / "data.jsonl", tmp_path / "parts", options(), progress=Stop(7))
    (tmp_path / "parts" / "last" / "snapshot.safetensors").write_bytes(b"damaged")
    tune(place / "full", place / "data.jsonl", tmp_path / "parts", resume=True)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")


_CHILD = """
import sys
from zoedge.options import TuneOptions, make
from zoedge.runtime.tune import tune
bundle, data, run = sys.argv[1:]
options = TuneOptions(steps=600, lr=0.02, batch_size=32, eval_every=40, threads=1)
tune(bundle, data, run, options, resume=True)
"""


def test_twenty_kills_change_nothing(place, tmp_path):
    """kill -9 at random moments, from start-up to the last save; the result is the uninterrupted run's."""
    command = [sys.executable, "-c", _CHILD, str(place / "full"), str(place / "data.jsonl")]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    steps_seen, rng = set(), random.Random(0)
    path = tmp_path / "parts" / "journal.zoj"
    for kill in range(20):
        process = subprocess.Popen([*command, str(tmp_path / "parts")])
        size = path.stat().st_size if path.exists() else 0
        deadline = time.monotonic() + 60
        # wait until it works on the journal, then a random moment more; every fourth dies at start-up
        while kill % 4 and process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.stat().st_size > size:
                break
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.08 if kill % 4 else 0.8))
        process.kill()
        process.wait()
        if path.exists():
            steps_seen.add(sum(isinstance(r, Step) for r in journal.read_journal(path).records))
    assert len(steps_seen) > 5  # it was killed at many places
    subprocess.run([*command, str(tmp_path / "parts")], check=True)
    assert path.read_bytes() == (tmp_path / "whole" / "journal.zoj").read_bytes()
    for which in ("best", "last"):
        assert tensors(tmp_path / "parts", which) == tensors(tmp_path / "whole", which)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_it_learns_and_keeps_the_best(place, tmp_path, train):
    before = evaluate(place / train, place / "test.jsonl")
    run = tune(
        place / train,
        place / "data.jsonl",
        tmp_path / "run",
        TuneOptions(steps=300, lr=0.05, batch_size=64, eval_every=50),
    )
    after = evaluate(tmp_path / "run", place / "test.jsonl")
    if train == "full":
        assert after["accuracy"] > max(0.75, before["accuracy"] + 0.15)
    else:  # beside one frozen random matrix there is less to learn
        assert after["loss"] < 0.9 * before["loss"]
    assert after["examples"] == 100
    evals = [r for r in journal.read_journal(run.journal).records if isinstance(r, Eval)]
    assert [e.step for e in evals] == [0, 50, 100, 150, 200, 250, 300]
    best = min(evals, key=lambda e: e.metrics["loss"]).step
    replay(tmp_path / "run", tmp_path / "best", steps=best)
    assert (tmp_path / "best" / "tensors.safetensors").read_bytes() == (
        tmp_path / "run" / "best" / "tensors.safetensors"
    ).read_bytes()


def test_the_log_has_one_object_per_step_with_the_promised_keys(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=6))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [row for row in lines if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    promised = {"step", "loss", "step_seconds", "lr", "eps", "projected_gradient", "peak_rss_bytes"}
    assert all(promised <= row.keys() for row in steps)
    assert all({"eval_loss", "eval_accuracy"} <= row.keys() for row in lines if "loss" not in row)
    assert sum("eval_loss" in row for row in lines) == 3  # at 0, 5 and the end


def test_linear_schedule_goes_to_zero(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=4, lr_schedule="linear"))
    steps = [r for r in journal.read_journal(tmp_path / "run" / "journal.zoj").records if isinstance(r, Step)]
    np.testing.assert_allclose([s.lr for s in steps], [0.02, 0.015, 0.01, 0.005], rtol=1e-6)


def test_micro_batches_do_not_change_the_estimate(place, tmp_path):
    for name, size in (("one", None), ("many", 5)):
        tune(
            place / "full",
            place / "data.jsonl",
            tmp_path / name,
            options("mezo", steps=3, micro_batch_size=size),
        )
    one, many = (
        [r for r in journal.read_journal(tmp_path / n / "journal.zoj").records if isinstance(r, Step)]
        for n in ("one", "many")
    )
    np.testing.assert_allclose([s.answers for s in one], [s.answers for s in many], rtol=1e-5)


def test_early_stopping(place, tmp_path):
    settings = options(steps=200, lr=1e-12, eval_every=2, early_stopping_patience=3)
    tune(place / "full", place / "data.jsonl", tmp_path / "run", settings)
    steps = [r for r in journal.read_journal(tmp_path / "run" / "journal.zoj").records if isinstance(r, Step)]
    assert len(steps) < 40


def test_max_time(place, tmp_path):
    started = time.monotonic()
    tune(place / "full", place / "data.jsonl", tmp_path / "run", TuneOptions(max_time="1s", batch_size=32))
    assert time.monotonic() - started < 20
    steps = [r for r in journal.read_journal(tmp_path / "run" / "journal.zoj").records if isinstance(r, Step)]
    assert len(steps) > 3
    assert steps[-1].lr < 0.2 * steps[0].lr  # the schedule follows the time


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda outputs, targets: "high", "returned 'high': return one number"),
        (lambda outputs, targets: outputs["nope"], r"raised KeyError \('nope'\): correct the function"),
        (lambda outputs, targets: float("nan"), "returned nan for the first batch: return a finite number"),
    ],
)
def test_a_function_that_can_not_be_used_is_told_before_anything_is_written(place, tmp_path, function, said):
    wanted = options(objective_direction="max")
    for verb, target in ((tune, [tmp_path / "run"]), (dry_run, [])):
        with pytest.raises(InputError, match=said):
            verb(place / "full", place / "data.jsonl", *target, wanted, objective=function)
    assert not (tmp_path / "run").exists()


def test_steps_are_told_by_the_objective_s_own_number(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(objective="accuracy", steps=3))
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    values = [row["objective"] for row in steps if "lr" in row]
    assert len(values) == 3
    assert all(0.0 < value <= 1.0 for value in values)
    assert [row["loss"] for row in steps if "lr" in row] == [-value for value in values]


@pytest.mark.parametrize("objective", ["accuracy", "f1", "score_module:score"])
def test_objectives_without_a_gradient(place, tmp_path, objective, monkeypatch):
    (tmp_path / "score_module.py").write_text(
        "def score(outputs, targets):\n    return float((outputs['logits'].argmax(1) == targets['labels']).mean())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = evaluate(place / "full", place / "test.jsonl")["accuracy"]
    direction = "max" if ":" in objective else None
    settings = TuneOptions(
        objective=objective,
        objective_direction=direction,
        steps=200,
        batch_size=128,
        lr=0.05,
        eps=0.05,
        eval_every=50,
    )
    tune(place / "full", place / "data.jsonl", tmp_path / "run", settings)
    assert evaluate(tmp_path / "run", place / "test.jsonl")["accuracy"] > before + 0.1


@pytest.mark.parametrize(
    ("placement", "kept"),
    [("out-of-place", "as before it"), ("in-place", "as before it, up to float32 rounding")],
)
def test_steps_that_are_not_finite_are_said_and_end_the_run(place, tmp_path, placement, kept):
    said = []

    class Listen(Silent):
        def note(self, text):
            said.append(text)

    with pytest.raises(
        ZoedgeError, match="no finite loss for 20 steps in a row: start again with a lower --lr"
    ):
        tune(
            place / "full",
            place / "data.jsonl",
            tmp_path / "run",
            options("mezo", steps=100, lr=3e38, eval_every=0, placement=placement),
            progress=Listen(),
        )
    assert said[1] == f"step 1 skipped: a loss or the update was not finite; the weights are {kept}"


def test_predict(place, tmp_path):
    found = list(predict(place / "full", data=place / "test.jsonl"))
    assert len(found) == 100
    assert {"label", "score"} <= found[0].keys()


def test_an_existing_run_needs_resume(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=1))
    before = (tmp_path / "run" / "journal.zoj").read_bytes()
    with pytest.raises(
        InputError, match=r"holds a run already: continue it with --resume or choose another -o"
    ):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=1))
    assert (tmp_path / "run" / "journal.zoj").read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "--steps is 0 and must be above 0"),
        ({"lr": -1.0}, "--lr is -1.0 and must be above 0"),
        ({"batch_size": 0}, "--batch-size is 0 and must be above 0"),
        ({"active_elements": 2.0}, "--active-elements is 2.0 and must be"),
        ({"few_rows": "maybe"}, "Invalid enum value 'maybe'"),
    ],
)
def test_options_made_in_python_are_checked_before_anything_is_written(place, tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options(**wrong))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "--lr 0.5 differs from the 0.02"),
        ({"seed": 3}, "--seed 3 differs from the 0"),
    ],
)
def test_resume_with_other_settings_is_refused(place, tmp_path, change, message):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=1))
    with pytest.raises(InputError, match=message):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options(**change), resume=True)


def test_resume_compares_what_was_given_even_where_it_is_the_default(place, tmp_path):
    data = place / "data.jsonl"
    tune(place / "full", data, tmp_path / "run", options(steps=1, seed=3, threads=2, placement="in-place"))
    default = TuneOptions()
    with pytest.raises(InputError, match="--seed 0 differs from the 3"):
        tune(place / "full", data, tmp_path / "run", default, given={"seed"}, resume=True)
    kept = tune(place / "full", data, tmp_path / "run", default, given={"placement"}, resume=True)
    assert kept.options.placement == "in-place"  # "auto" is what was chosen then
    tune(place / "full", data, tmp_path / "run", default, given=(), resume=True)
    tune(place / "full", data, tmp_path / "run", TuneOptions(steps=2), given={"steps"}, resume=True)


def test_resume_on_other_data_or_another_bundle_is_refused(place, tmp_path):
    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=1))
    with pytest.raises(InputError, match="other training data"):
        tune(place / "full", place / "test.jsonl", tmp_path / "run", resume=True)
    with pytest.raises(BundleError, match="another bundle"):
        tune(place / "lora", place / "data.jsonl", tmp_path / "run", resume=True)


def test_resume_with_other_validation_rows_is_refused(place, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    shutil.copy(place / "data.jsonl", data / "train.jsonl")
    rows(data / "valid.jsonl", 20, seed=2)
    tune(place / "full", data, run, options(steps=1))
    rows(data / "valid.jsonl", 20, seed=3)
    with pytest.raises(InputError, match="started with other validation rows"):
        tune(place / "full", data, run, TuneOptions(steps=2), resume=True)
    (data / "valid.jsonl").unlink()
    with pytest.raises(InputError, match="started with other validation rows"):
        tune(place / "full", data, run, TuneOptions(steps=2), resume=True)
    rows(data / "valid.jsonl", 20, seed=2)
    tune(place / "full", data, run, TuneOptions(steps=2), resume=True)


def test_a_second_process_is_refused(place, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(InputError, match="being tuned by another process"):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", options(steps=1))


def test_a_folder_with_something_in_it_is_refused(place, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        tune(place / "full", place / "data.jsonl", tmp_path, options(steps=1))
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["notes.txt"]


def test_a_batch_larger_than_the_data_is_refused_and_writes_nothing(place, tmp_path):
    with pytest.raises(
        InputError, match="--batch-size 500 is larger than the 180 training rows: use at most 180"
    ):
        tune(place / "full", place / "data.jsonl", tmp_path / "run", TuneOptions(batch_size=500))
    assert not (tmp_path / "run").exists()


def test_one_row_can_not_be_held_out_and_trained_on(place, tmp_path):
    message = "the data has 1 row, and holding 1 out .* give more rows, a smaller --val-size, or --val-size 0"
    with pytest.raises(InputError, match=message):
        tune(place / "full", [{"text": "a", "label": "no"}], tmp_path / "run", TuneOptions(batch_size=1))
    assert not (tmp_path / "run").exists()


def test_dry_run_says_what_has_no_effect(place):
    lines = dry_run(place / "full", place / "data.jsonl", TuneOptions(steps=1), given={"rank", "steps"})
    first, second = lines["note"].split("; ", 1)
    assert first == "--rank has no effect here: fzoo has no such setting, lozo, lozo-m and subzero have"
    assert second.startswith("validation has 20 rows, fewer than 30: ")


def test_dry_run_says_what_would_be_done(place, tmp_path):
    lines = dry_run(place / "full", place / "data.jsonl", options())
    assert lines["data"].endswith("(180 rows, 20 held out for validation)")
    assert "fzoo, lr 0.02 linear" in lines["method"]


def test_the_end_says_what_is_best_and_on_how_many_rows(place, tmp_path):
    said = []

    class Listen(Silent):
        def note(self, text):
            said.append(text)

    tune(place / "full", place / "data.jsonl", tmp_path / "run", options(), progress=Listen())
    assert said[-1].startswith("best after step ")
    assert "; on 20 validation rows, which agree with an accuracy from 0." in said[-1]
    assert Run.open(tmp_path / "run").facts.validation_rows == 20


def test_a_run_begun_before_splits_were_stratified_goes_on_with_its_own(place, tmp_path, monkeypatch):
    def settings(steps):
        return options(steps=steps, lr_schedule="constant", eval_every=5)

    tune(place / "full", place / "data.jsonl", tmp_path / "new", settings(10))
    with monkeypatch.context() as patch:
        patch.setattr("zoedge.runtime.tune.read_rows", lambda *given: read_rows(*given[:5], Facts()))
        for name, steps in (("old", 10), ("whole", 20)):
            tune(place / "full", place / "data.jsonl", tmp_path / name, settings(steps))
    config = tmp_path / "old" / "config.yaml"
    known = yaml.safe_load(config.read_text())
    del known["facts"]  # as it was then
    config.write_text(yaml.safe_dump(known))
    tune(place / "full", place / "data.jsonl", tmp_path / "old", settings(20), given={"steps"}, resume=True)
    new, old, whole = (journal.read_journal(tmp_path / n / "journal.zoj") for n in ("new", "old", "whole"))
    assert old.records == whole.records
    assert old.header.valid != new.header.valid
