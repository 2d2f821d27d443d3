"""Regression end to end: columns by name, targets of any size, metrics as scikit-learn has them."""

from __future__ import annotations

import json
import re

import numpy as np
import onnxruntime as ort
import pytest
from sklearn import metrics as sk

from tests.builders.regression import (
    NAMES,
    SLOPES,
    TRAIN,
    Said,
    data,
    exported,
    net,
    options,
    table,
    tuned,
    two_layers,
)
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import open_device
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.records import Step
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune
from zoedge.tensor_file import map_tensors


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("regression"))


@pytest.fixture(scope="module")
def run(bundle, tmp_path_factory):
    return tuned(bundle, tmp_path_factory.mktemp("run"))


def stock(run, tmp_path, x):
    """Predictions of the merged model under plain onnxruntime."""
    write_merged(run.bundle(), run.weights(), tmp_path / "merged")
    session = ort.InferenceSession(tmp_path / "merged" / "model.onnx")
    return session.run(None, {"x": x.astype(np.float32)})[0]


@pytest.mark.parametrize("method", ["fzoo", "mezo"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_unscaled_targets_are_learnt_and_every_way_out_has_their_units(tmp_path, outputs, method):
    bundle = tmp_path / "bundle"
    to_bundle(net(tmp_path / "net.onnx", outputs=outputs), bundle, task="regression", train=TRAIN)
    target = ("label",) if outputs == 1 else ("height", "weight")
    scale, offset = np.array([80_000.0, 1e-4])[:outputs], np.array([250_000.0, 0.0])[:outputs]
    x, y = data(400, outputs, scale=scale, offset=offset)
    table(tmp_path / "train.csv", x, y, target=target)
    x, y = data(100, outputs, seed=1, scale=scale, offset=offset)
    test = table(tmp_path / "test.csv", x, y, NAMES[::-1], target=target)
    said = Said()
    keys = {} if outputs == 1 else {"label_key": "height,weight"}
    lr = {"fzoo": 0.05, "mezo": 0.02}[method]
    asked = options(method=method, lr=lr, steps=300, val_size=0.2, **keys)
    run = tune(bundle, tmp_path / "train.csv", tmp_path / "run", asked, progress=said)
    assert said.header["columns"] == f"input {', '.join(NAMES)}; target {','.join(target)}"
    assert any("the loss is taken on (target - mean) / deviation" in note for note in said.notes)
    rows = np.array([row["value"] for row in predict(tmp_path / "run", data=test)]).reshape(-1, outputs)
    scored = evaluate(tmp_path / "run", test)
    assert scored["r2"] > 0.9
    assert scored["r2"] == pytest.approx(sk.r2_score(y, rows), abs=1e-3)
    assert scored["mae"] == pytest.approx(sk.mean_absolute_error(y, rows), rel=1e-3)
    assert scored["mse"] == pytest.approx(sk.mean_squared_error(y, rows), rel=1e-3)
    np.testing.assert_allclose(stock(run, tmp_path, x), rows, rtol=1e-5)
    last = said.evaluations[-1]
    assert last["eval_loss"] < 0.2  # of standardised targets
    if outputs == 1:
        assert last["eval_mse"] == pytest.approx(
            last["eval_loss"] * Run.open(tmp_path / "run").facts.target.std[0] ** 2, rel=1e-3
        )
    replayed = replay(tmp_path / "run", tmp_path / "replayed")
    saved = run.weights("last")
    assert {n: v.tobytes() for n, v in map_tensors(replayed.path).items()} == {
        n: v.tobytes() for n, v in saved.items()
    }


def test_a_run_on_a_scale_goes_on_to_the_same_bits(bundle, tmp_path):
    table(tmp_path / "t.csv", *data(scale=1e4, offset=1e5))
    asked = options(steps=20, lr_schedule="constant", eval_every=5)
    tune(bundle, tmp_path / "t.csv", tmp_path / "whole", asked)
    tune(
        bundle,
        tmp_path / "t.csv",
        tmp_path / "parts",
        options(steps=10, lr_schedule="constant", eval_every=5),
    )
    tune(bundle, tmp_path / "t.csv", tmp_path / "parts", options(steps=20), given={"steps"}, resume=True)
    whole, parts = (Run.open(tmp_path / name) for name in ("whole", "parts"))
    assert journal.read_journal(whole.journal).records == journal.read_journal(parts.journal).records
    for which in ("best", "last"):
        got = {n: v.tobytes() for n, v in parts.weights(which).items()}
        assert got == {n: v.tobytes() for n, v in whole.weights(which).items()}


@pytest.mark.parametrize("method", ["fzoo", "mezo"])
def test_a_model_in_the_targets_units_keeps_its_outputs(tmp_path, method):
    scale, offset = 80_000.0, 250_000.0
    trained = (0.9 * SLOPES[:1] * scale, [offset])
    to_bundle(
        net(tmp_path / "net.onnx", trained=trained), tmp_path / "bundle", task="regression", train=("full",)
    )
    x, y = data(scale=scale, offset=offset)
    table(tmp_path / "t.csv", x, y)
    before = evaluate(tmp_path / "bundle", tmp_path / "t.csv")
    said = Said()
    run = tune(
        tmp_path / "bundle",
        tmp_path / "t.csv",
        tmp_path / "run",
        options(method=method, steps=5),
        progress=said,
    )
    assert run.facts.target is not None
    assert not run.facts.target.outputs
    assert any("the model gives their units" in note for note in said.notes)
    after = evaluate(tmp_path / "run", tmp_path / "t.csv")
    assert after["r2"] == pytest.approx(before["r2"], abs=0.01)  # not thrown away
    last = said.evaluations[-1]
    factor = run.facts.target.loss_factor
    assert last["eval_loss"] == pytest.approx(last["eval_mse"] * factor, rel=1e-4)
    assert all(
        loss < 1.0
        for record in journal.read_journal(run.journal).records
        if isinstance(record, Step)
        for loss in record.answers
    )


def test_targets_of_the_usual_size_are_left_alone(run):
    assert Run.open(run[0]).facts.target is None
    assert not any("targets have" in note for note in run[1].notes)


def test_scaling_can_be_declined(bundle, tmp_path):
    table(tmp_path / "t.csv", *data(scale=1e4))
    run = tune(bundle, tmp_path / "t.csv", tmp_path / "run", options(steps=1, scale_targets="no"))
    assert run.facts.target is None


def test_a_scale_without_a_place_is_refused_with_the_remedies(tmp_path):
    path = net(tmp_path / "net.onnx", outputs=2)
    to_bundle(path, tmp_path / "bundle", task="regression", train=("fc.weight",))
    table(tmp_path / "t.csv", *data(outputs=2, scale=1e4, offset=1e5), target=("a", "b"))
    with pytest.raises(
        InputError,
        match=r"have mean 1\S+e\+05 .*--train head added to the others.*scale the targets to \(target [^;]*$",
    ):
        tune(tmp_path / "bundle", tmp_path / "t.csv", tmp_path / "run", options(label_key="a,b"))
    assert not (tmp_path / "run").exists()
    to_bundle(path, tmp_path / "head", task="regression", train=("fc.weight", "head"))
    tune(tmp_path / "head", tmp_path / "t.csv", tmp_path / "run", options(steps=1, label_key="a,b"))


def test_the_remedies_of_a_scale_without_a_place_work(tmp_path):
    """Branches alone can't move the mean of the outputs, whatever the targets are taken as."""
    path = two_layers(tmp_path / "net.onnx")
    asked = {"task": "regression"}
    x, y = data(200)
    table(tmp_path / "t.csv", x, y + 198.9)
    to_bundle(path, tmp_path / "lora", train=("lora",), **asked)
    with pytest.raises(
        InputError, match=r"have mean 199 .*or scale the targets to \(target - 199\) / "
    ) as error:
        tune(tmp_path / "lora", tmp_path / "t.csv", tmp_path / "run", options())
    assert "--train head added to the others" in str(error.value)
    assert "--scale-targets" not in str(error.value)
    to_bundle(path, tmp_path / "head", train=("lora", "head"), **asked)
    mean, std = map(float, re.search(r"target - ([\d.]+)\) / ([\d.]+)$", str(error.value)).groups())
    table(tmp_path / "scaled.csv", x, (y + 198.9 - mean) / std)
    for bundle, rows in (("head", "t.csv"), ("lora", "scaled.csv")):
        run = tune(tmp_path / bundle, tmp_path / rows, tmp_path / f"run_{bundle}", options(steps=300))
        assert evaluate(run, tmp_path / rows)["r2"] > 0.5


@pytest.mark.parametrize("method", ["fzoo", "subzero"])
def test_a_matrix_may_be_trained_beside_its_branch(tmp_path, method):
    x, y = data(60)
    table(tmp_path / "t.csv", x, y)
    to_bundle(two_layers(tmp_path / "n.onnx"), tmp_path / "bundle", task="regression", train=("lora", "body"))
    before = load_buffers(Bundle.open(tmp_path / "bundle"), open_device("cpu"))
    run = tune(tmp_path / "bundle", tmp_path / "t.csv", tmp_path / "run", options(method=method, steps=3))
    assert sorted(before) == ["body.bias", "body.lora_A.weight", "body.lora_B.weight", "body.weight"]
    for name, value in run.weights("last").items():
        assert not np.array_equal(value, before[name]), name
    replay(run, tmp_path / "replayed")


def test_targets_that_float32_cannot_tell_apart_are_refused(bundle, tmp_path):
    table(tmp_path / "t.csv", *data(scale=100.0, offset=1.7e9))
    with pytest.raises(InputError, match="which float32 can't tell well: subtract a number near that"):
        tune(bundle, tmp_path / "t.csv", tmp_path / "run", options())


def test_a_function_sees_the_users_units(bundle, tmp_path, monkeypatch):
    table(tmp_path / "t.csv", *data(scale=1e4, offset=1e5))
    (tmp_path / "goals.py").write_text(
        "def near(outputs, targets):\n"
        "    assert 5e4 < targets['labels'].mean() < 2e5\n"
        "    return abs(outputs['logits'] - targets['labels']).mean()\n"
        "near.direction = 'min'\n"
    )
    monkeypatch.chdir(tmp_path)
    said = Said()
    run = tune(bundle, "t.csv", "run", options(objective="goals:near", steps=5), progress=said)
    assert run.options.objective_direction == "min"
    assert any("is minimised: lower is better" in note for note in said.notes)
    assert said.evaluations[-1]["eval_objective"] == pytest.approx(said.evaluations[-1]["eval_mae"], rel=1e-4)


def test_texts_with_numbers_as_labels(tiny_bert, tmp_path):
    """A new head on an encoder, solved in the user's units."""
    to_bundle(tiny_bert, tmp_path / "bundle", task="regression", train=("head",))
    words = ("good", "bad", "fine", "dull")
    labels = {(a, b): 1000.0 * i + 50_000.0 * j for i, a in enumerate(words) for j, b in enumerate(words)}
    rows = [{"text": f"{a} {b}", "label": label} for (a, b), label in labels.items()]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows * 4)))
    said = Said()
    run = tune(
        tmp_path / "bundle", tmp_path / "t.jsonl", tmp_path / "run", options(steps=2, lr=1e-4), progress=said
    )
    assert run.facts.target is not None
    assert run.facts.target.outputs
    known = [row["label"] for row in rows]
    found = [row["value"] for row in predict(tmp_path / "run", texts=[row["text"] for row in rows])]
    scored = evaluate(tmp_path / "run", tmp_path / "t.jsonl")
    assert scored["r2"] == pytest.approx(sk.r2_score(known, found), abs=1e-4)
    assert scored["mae"] == pytest.approx(sk.mean_absolute_error(known, found), rel=1e-3)
    assert abs(np.mean(found) - np.mean(known)) < 20_000
