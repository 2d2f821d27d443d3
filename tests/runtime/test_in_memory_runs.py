"""Every verb on rows in memory, on options as a dict, on functions, and on bundles and runs as objects."""

from __future__ import annotations

import json

import numpy as np
import pytest

import zoedge
from tests.builders.networks import mlp, rows
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.runtime.preflight.rehearsal import rehearse
from zoedge.runtime.preflight.trial import Ask
from zoedge.runtime.tune import dry_run

OPTIONS = {"method": "mezo", "steps": 4, "lr": 1e-2, "batch-size": np.int64(16), "eval_every": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 64)
    to_bundle(folder / "mlp.onnx", folder / "bundle", task="classification", train=("full",))
    zoedge.tune(folder / "bundle", folder / "data.jsonl", folder / "run", OPTIONS)
    return folder


@pytest.fixture(scope="module")
def records(place):
    return [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]


def weights(run):
    return {name: value.tobytes() for name, value in zoedge.Run.open(run).weights("last").items()}


def arrays(records):
    return {name: np.array([row[name] for row in records]) for name in records[0]}


@pytest.mark.parametrize("form", [list, iter, arrays, lambda records: {"train": records}])
def test_the_same_rows_give_the_same_run(place, records, tmp_path, form):
    run = zoedge.tune(zoedge.Bundle.open(place / "bundle"), form(records), tmp_path / "run", OPTIONS)
    assert weights(run.folder) == weights(place / "run")
    assert run.journal.read_bytes() == (place / "run" / "journal.zoj").read_bytes()


def test_evaluate_and_predict(place, records):
    from_file = zoedge.evaluate(place / "run", place / "data.jsonl")
    run = zoedge.Run.open(place / "run")
    assert zoedge.evaluate(run, records) == zoedge.evaluate(str(run.folder), arrays(records)) == from_file
    assert list(zoedge.predict(run, data=records)) == list(zoedge.predict(run, data=place / "data.jsonl"))
    zoedge.evaluate(zoedge.Bundle.open(place / "bundle"), records)


def test_a_run_on_rows_in_memory_is_resumed_with_the_same_rows(place, records, tmp_path):
    run = zoedge.tune(
        place / "bundle", records, tmp_path / "run", OPTIONS | {"steps": 2, "lr_schedule": "constant"}
    )
    assert zoedge.Run.open(run.folder).data == "rows in memory"
    with pytest.raises(InputError, match="was tuned on rows in memory: give the same rows again"):
        zoedge.tune(run, run.data, run, {"steps": 4}, resume=True)
    with pytest.raises(InputError, match="was started on other training data"):
        zoedge.tune(run, records[::-1], run, {"steps": 4}, resume=True)
    zoedge.tune(run, arrays(records), run, {"steps": 4}, resume=True)
    whole = zoedge.tune(place / "bundle", records, tmp_path / "whole", OPTIONS | {"lr_schedule": "constant"})
    assert weights(run.folder) == weights(whole.folder)


def test_a_run_is_no_bundle_to_start_from(place, records, tmp_path):
    for run in (place / "run", zoedge.Run.open(place / "run")):
        told = rf"run is a run and not a bundle: go on with it by --resume .*{place / 'bundle'} \(run\.bundle"
        with pytest.raises(InputError, match=told):
            zoedge.tune(run, records, tmp_path / "other", OPTIONS)
        with pytest.raises(InputError, match=told):
            dry_run(run, records, OPTIONS)
    assert not (tmp_path / "other").exists()


def test_an_objective_that_is_a_function(place, records, tmp_path):
    def margin(outputs, targets):
        return -float(outputs["loss"].mean())

    margin.direction = "max"
    seen = []
    given = {**OPTIONS, "steps": 2, "lr_schedule": "constant"}
    run = zoedge.tune(
        place / "bundle", records, tmp_path / "run", given, objective=margin, progress=seen.append
    )
    assert [row["step"] for row in seen if "lr" in row] == [1, 2]
    assert any("eval_loss" in row for row in seen)
    name = zoedge.Run.open(run.folder).options.objective
    assert name.endswith("test_an_objective_that_is_a_function.<locals>.margin")
    zoedge.replay(run, tmp_path / "replayed")
    with pytest.raises(InputError, match=r"is a function that was given in Python: give it again, as tune\("):
        zoedge.tune(run, records, run, {"steps": 4}, resume=True)
    zoedge.tune(run, records, run, {"steps": 4, "objective": margin}, resume=True)
    whole = zoedge.tune(
        place / "bundle", records, tmp_path / "whole", {**given, "steps": 4}, objective=margin
    )
    assert weights(run.folder) == weights(whole.folder)


def test_a_rehearsal_gets_rows_and_a_stand_in_for_the_function(place, records):
    from_file = zoedge.estimate(place / "bundle", place / "data.jsonl", OPTIONS)
    in_memory = zoedge.estimate(
        zoedge.Run.open(place / "run"),
        iter(records),
        {**OPTIONS, "objective_direction": "min"},
        objective=lambda o, t: 0.0,
    )
    assert (in_memory.passes, in_memory.largest_rows) == (from_file.passes, from_file.largest_rows)
    assert in_memory.steps == from_file.steps


def test_a_rehearsal_leaves_no_rows_behind(place, records, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    from zoedge.runtime.asked import asked
    from zoedge.runtime.data import as_data

    options = asked(OPTIONS).options
    rehearse(Ask(bundle=str(place / "bundle"), data=as_data(records), options=options, memory_only=True))
    assert list(tmp_path.iterdir()) == []


def test_bench_takes_a_dict_and_a_run(place):
    assert zoedge.bench(zoedge.Run.open(place / "run"), {"method": "mezo", "batch_size": 4}).rows == 4


def test_merge_of_a_run(place, tmp_path):
    run = zoedge.Run.open(place / "run")
    zoedge.merge(run, tmp_path / "a")
    zoedge.merge(place / "run", output=str(tmp_path / "b"), which="best")
    zoedge.merge(place / "bundle", run.weights(), tmp_path / "c")
    zoedge.merge(run.bundle(), run.weights(), tmp_path / "d")
    merged = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abcd"]
    assert len(set(merged)) == 1
    for bundle in (place / "bundle", run.bundle()):
        with pytest.raises(InputError, match=r"is not a run folder|is a bundle: give the run"):
            zoedge.merge(bundle, tmp_path / "e")
    with pytest.raises(InputError, match="has no branches"):
        zoedge.write_adapter(run, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_word_for_weights_or_a_split_that_there_is_none_of(place):
    with pytest.raises(InputError, match="which is 'beest' and must be best or last; did you mean best"):
        zoedge.evaluate(place / "run", place / "data.jsonl", which="beest")
    with pytest.raises(
        InputError, match="split is 'tset' and must be train or valid or test; did you mean test"
    ):
        zoedge.evaluate(place / "run", place / "data.jsonl", split="tset")


def test_labels_of_an_onnx_file_leave_with_the_merged_model(place, tmp_path):
    bundle = to_bundle(
        place / "mlp.onnx", tmp_path / "b", task="classification", labels=("a", "b", "c"), train=("full",)
    )
    zoedge.merge(bundle, {}, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["id2label"] == {
        "0": "a",
        "1": "b",
        "2": "c",
    }


def test_an_objective_that_is_not_a_number_is_refused_before_anything_is_written(place, records, tmp_path):
    def broken(outputs, targets):
        return float("nan")

    broken.direction = "min"
    with pytest.raises(InputError, match="returned nan for the first batch"):
        zoedge.tune(place / "bundle", records, tmp_path / "run", OPTIONS, objective=broken)
    assert not (tmp_path / "run").exists()


def test_an_estimator_of_another_library_is_no_model(tmp_path):
    with pytest.raises(InputError, match="model is a object: give a hub id, a folder"):
        to_bundle(object(), tmp_path / "b")


NOTHING = [None, 3, b"bundle", "", "no\0where", "x" * 5000, object(), ["bundle"]]


@pytest.mark.parametrize("wrong", NOTHING, ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_path_is_said(place, records, tmp_path, wrong):
    calls = [
        lambda: zoedge.Bundle.open(wrong),
        lambda: zoedge.Run.open(wrong),
        lambda: zoedge.tune(wrong, records, tmp_path / "run", OPTIONS),
        lambda: zoedge.tune(place / "bundle", records, wrong, OPTIONS),
        lambda: zoedge.evaluate(wrong, records),
        lambda: list(zoedge.predict(wrong, data=records)),
        lambda: zoedge.estimate(wrong, records),
        lambda: zoedge.bench(wrong),
        lambda: zoedge.merge(wrong, tmp_path / "out"),
        lambda: zoedge.merge(place / "run", wrong),
        lambda: zoedge.write_adapter(wrong, tmp_path / "out"),
        lambda: zoedge.replay(wrong, tmp_path / "out"),
        lambda: zoedge.replay(place / "run", wrong),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [3, b"rows", "", np.zeros(3), ["text"], {"x": 1}, object()])
def test_what_is_no_data_is_said_and_leaves_nothing(place, tmp_path, wrong):
    calls = [
        lambda: zoedge.tune(place / "bundle", wrong, tmp_path / "run", OPTIONS),
        lambda: dry_run(place / "bundle", wrong, OPTIONS),
        lambda: zoedge.evaluate(place / "run", wrong),
        lambda: list(zoedge.predict(place / "run", data=wrong)),
        lambda: zoedge.estimate(place / "bundle", wrong, OPTIONS),
    ]
    for call in calls:
        with pytest.raises(InputError):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"stepz": 3}}, "^the options have no setting 'stepz'; did you mean steps"),
        ({"options": {"steps": "many"}}, "can't be used: Expected `int"),
        ({"options": {"steps": -1}}, "steps is -1 and must be above 0"),
        ({"options": [("steps", 3)]}, r"options are the list .*: give a dict like"),
        ({"options": "steps=3"}, "options are the str"),
        ({"objective": 3}, "objective is 3: give a name or a function"),
        ({"objective": "acuracy"}, "'acuracy' is unknown; did you mean accuracy"),
        ({"progress": "bar"}, "progress is 'bar': give a function"),
    ],
)
def test_wrong_options_are_said_and_leave_nothing(place, records, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        zoedge.tune(place / "bundle", records, tmp_path / "run", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_whose_columns_are_counted_is_known_in_any_order(place, tmp_path):
    """As pandas writes the columns of an array: their header is no row of data, however they are arranged."""
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(0).standard_normal((60, 6)).round(4)
    frame = pandas.DataFrame(values)
    frame["label"] = np.arange(60) % 3
    run = zoedge.tune(place / "bundle", frame, tmp_path / "run", OPTIONS)
    found = []
    for name, order in (("straight", [0, 1, 2, 3, 4, 5]), ("mixed", [3, 1, 5, 0, 2, 4])):
        pandas.DataFrame(values)[order].to_csv(tmp_path / f"{name}.csv", index=False)
        found.append([row["label"] for row in zoedge.predict(run, data=tmp_path / f"{name}.csv")])
    assert len(found[0]) == 60
    assert found[0] == found[1]
