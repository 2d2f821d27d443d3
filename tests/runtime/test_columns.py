"""The columns of tables end to end: by name, by position, with decimal commas."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from sklearn import metrics as sk

from tests.builders.regression import NAMES, Said, data, exported, net, options, table, tuned
from zoedge.errors import DataError
from zoedge.export import to_bundle
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.outputs.verbs import merge
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import tune


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("regression"))


@pytest.fixture(scope="module")
def run(bundle, tmp_path_factory):
    return tuned(bundle, tmp_path_factory.mktemp("run"))


def test_tuning_says_which_columns_became_what_and_saves_it(run):
    assert run[1].header["columns"] == "input age, rooms, tax, area; target label"
    assert yaml.safe_load((run[0] / "config.yaml").read_text())["facts"]["columns"] == list(NAMES)


def test_a_run_reads_columns_by_name(run, tmp_path):
    x, y = data(seed=1)
    said = []
    same = evaluate(run[0], table(tmp_path / "same.csv", x, y), say=said.append)
    assert said == []
    permuted = table(tmp_path / "permuted.csv", x, y, ("area", "label", "age", "tax", "rooms"))
    assert evaluate(run[0], permuted) == same
    extra = table(tmp_path / "extra.csv", x, y, ("id", *NAMES[::-1]), extra={"id": np.arange(len(x))})
    assert evaluate(run[0], extra, say=said.append) == same
    assert said == ["columns: input age, rooms, tax, area; target label; ignored id"]
    first = list(predict(run[0], data=permuted))
    assert first == list(predict(run[0], data=extra))
    assert same["r2"] == pytest.approx(sk.r2_score(y, [row["value"] for row in first]), abs=1e-6)
    assert same["mae"] == pytest.approx(sk.mean_absolute_error(y, [row["value"] for row in first]), rel=1e-6)


def test_json_rows_are_read_by_name_too(run, tmp_path):
    x, y = data(40, seed=1)
    rows = [
        dict(zip(NAMES, row.tolist(), strict=True)) | {"label": float(t)}
        for row, t in zip(x, y[:, 0], strict=True)
    ]
    rows[1::2] = [dict(reversed(row.items())) for row in rows[1::2]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert evaluate(run[0], tmp_path / "rows.jsonl") == evaluate(run[0], table(tmp_path / "t.csv", x, y))


def test_arrays_and_inputs_with_names_are_said_too(bundle, tmp_path):
    x, y = data(40)
    np.savez(tmp_path / "d.npz", rows=x, y=y)
    said = Said()
    tune(bundle, tmp_path / "d.npz", tmp_path / "run", options(steps=1), progress=said)
    assert said.header["columns"] == "input rows; target y"


def test_a_missing_column_is_named(run, tmp_path):
    x, y = data(20)
    path = table(tmp_path / "d.csv", x, y)
    path.write_text(path.read_text().replace("rooms", "room"))
    with pytest.raises(
        DataError, match=r"d\.csv:2 lacks the column rooms, .*did you mean room\?: give the columns"
    ):
        evaluate(run[0], path)


def test_a_value_that_is_no_number_is_named_with_its_column(run, tmp_path):
    x, y = data(3)
    path = table(tmp_path / "d.csv", x.round(2).astype(str), y)
    lines = path.read_text().splitlines()
    lines[2] = ",".join(["", *lines[2].split(",")[1:]])
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"d\.csv:3 has '' in the column 'age', which takes finite numbers"):
        evaluate(run[0], path)


def test_decimal_commas_are_read_or_named(run, bundle, tmp_path):
    x, y = data(30, seed=2)
    plain = table(tmp_path / "plain.csv", x, y)
    lines = plain.read_text().splitlines()
    german = tmp_path / "german.csv"
    german.write_text("\n".join(line.replace(",", ";").replace(".", ",") for line in lines))
    assert evaluate(run[0], german) == evaluate(run[0], plain)
    tabs = tmp_path / "tabs.csv"
    tabs.write_text("\n".join(line.replace(",", "\t").replace(".", ",") for line in lines))
    remedy = "write decimal points instead of decimal commas"
    with pytest.raises(DataError, match=rf"in the column 'age', which takes finite numbers: {remedy}"):
        evaluate(run[0], tabs)
    with pytest.raises(
        DataError, match=rf"0 columns of numbers besides the label \(not numbers: age = .*: {remedy}"
    ):
        tune(bundle, tabs, tmp_path / "run", options())
    tabs.write_text("\n".join([lines[0].replace(",", "\t"), "1\t2\t3\t4\t5,5"]))
    with pytest.raises(DataError, match=rf"has '5,5' for labels, which takes numbers: {remedy}"):
        evaluate(run[0], tabs)


def test_validation_rows_of_the_same_folder_go_by_name(bundle, tmp_path):
    x, y = data(60, seed=3)
    for name, order in (("a", NAMES), ("b", NAMES[::-1])):
        (tmp_path / name).mkdir()
        table(tmp_path / name / "train.csv", *data())
        table(tmp_path / name / "valid.csv", x, y, order)
        tune(bundle, tmp_path / name, tmp_path / f"run_{name}", options(steps=4))
    journals = [(tmp_path / f"run_{name}" / "journal.zoj").read_bytes() for name in "ab"]
    assert journals[0] == journals[1]


def test_a_run_goes_on_with_its_columns_and_is_one_run(bundle, tmp_path):
    x, y = data()
    path, asked = table(tmp_path / "t.csv", x, y), options(steps=20, lr_schedule="constant", eval_every=5)
    tune(bundle, path, tmp_path / "whole", asked)
    tune(bundle, path, tmp_path / "run", options(steps=10, lr_schedule="constant", eval_every=5))
    table(path, x, y, NAMES[::-1])
    tune(bundle, path, tmp_path / "run", options(steps=20), given={"steps"}, resume=True)
    whole, parts = (journal.read_journal(tmp_path / name / "journal.zoj") for name in ("whole", "run"))
    assert whole.records == parts.records
    assert Run.open(tmp_path / "run").facts.columns == NAMES


@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_without_header_goes_by_position(run, tmp_path, labelled):
    x, y = data(50, seed=1)
    expected = list(predict(run[0], data=table(tmp_path / "named.csv", x, y)))
    path = tmp_path / "bare.csv"
    np.savetxt(path, np.hstack([x, y]) if labelled else x, delimiter=",", fmt="%.17g")
    said = []
    assert list(predict(run[0], data=path, say=said.append)) == expected
    target = "label" if labelled else "none"
    told = f"by position as in training: input {', '.join(NAMES)}; target {target}"
    assert said == [f"columns: no header line, so {told}"]


@pytest.fixture(scope="module")
def priced(bundle, tmp_path_factory):
    """A run whose target is called price and stands first, and data that it hasn't seen, with and without names."""
    folder = tmp_path_factory.mktemp("priced")
    order = ("price", *NAMES)
    table(folder / "train.csv", *data(), order, ("price",))
    tune(bundle, folder / "train.csv", folder / "run", options(steps=4, label_key="price"))
    x, y = data(50, seed=1)
    table(folder / "named.csv", x, y, order, ("price",))
    table(folder / "bare.csv", x, y, order, ("price",), header=False)
    table(folder / "last.csv", x, y, header=False)
    table(folder / "inputs.csv", x, y[:, :0], target=(), header=False)
    return folder


def test_a_file_without_header_has_the_order_of_the_training_file(priced):
    said = []
    expected = evaluate(priced / "run", priced / "named.csv", say=said.append)
    assert said == []
    assert Run.open(priced / "run").facts.header == ("price", *NAMES)
    assert evaluate(priced / "run", priced / "bare.csv", say=said.append) == expected
    predicted = list(predict(priced / "run", data=priced / "bare.csv", say=said.append))
    assert predicted == list(predict(priced / "run", data=priced / "named.csv"))
    told = "columns: no header line, so by position as in training: input age, rooms, tax, area; target"
    assert said == [f"{told} price"] * 2
    assert list(predict(priced / "run", data=priced / "inputs.csv", say=said.append)) == predicted
    assert said[2:] == [f"{told} none"]


def test_a_position_may_be_the_label_s_key(priced):
    expected = evaluate(priced / "run", priced / "named.csv")
    said = []
    assert evaluate(priced / "run", priced / "last.csv", label_key="5", say=said.append) == expected
    assert evaluate(priced / "run", priced / "bare.csv", label_key="1", say=said.append) == expected
    told = "columns: no header line, so by position: input"
    assert said == [f"{told} 1, 2, 3, 4; target 5", f"{told} 2, 3, 4, 5; target 1"]


def test_a_resumed_run_and_validation_rows_without_header_go_by_the_training_file(priced, bundle, tmp_path):
    for name, part in (("named", "named.csv"), ("bare", "bare.csv")):
        (tmp_path / name).mkdir()
        shutil.copy(priced / "train.csv", tmp_path / name / "train.csv")
        shutil.copy(priced / part, tmp_path / name / "valid.csv")
        tune(bundle, tmp_path / name, tmp_path / f"run_{name}", options(steps=2, label_key="price"))
    journals = [(tmp_path / f"run_{name}" / "journal.zoj").read_bytes() for name in ("named", "bare")]
    assert journals[0] == journals[1]
    lines = (priced / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "bare" / "train.csv").write_text("".join(lines[1:]))
    run = tune(
        bundle, tmp_path / "bare", tmp_path / "run_named", options(steps=3), given={"steps"}, resume=True
    )
    assert len(journal.read_journal(run.journal).records) > 3


def test_a_first_row_that_was_taken_for_names_is_told(priced, run, tmp_path):
    x, y = data(20)
    path = table(tmp_path / "d.csv", x, y, extra={"place": ["a"] * 20}, header=False)
    with pytest.raises(
        DataError,
        match=r"has no field 'price', which --label-key names; its fields are .*; if its "
        r"first line is a row of data, put the header line price,age,rooms,tax,area above it$",
    ):
        evaluate(priced / "run", path)
    with pytest.raises(
        DataError,
        match=r"lacks the columns age, rooms, tax, area, which .*; its columns are .*, a; if "
        r"its first line is a row of data, put the header line age,rooms,tax,area,label above it$",
    ):
        evaluate(run[0], path)
    named = table(tmp_path / "n.csv", x, y, target=("price",))
    named.write_text(named.read_text().replace("age", "ZZZ"))
    with pytest.raises(
        DataError, match=r"lacks the column age, .*; its columns are ZZZ, rooms, tax, area, price: give"
    ):
        evaluate(priced / "run", named)


def test_a_run_tuned_without_names_says_so_of_a_file_with_names(bundle, tmp_path):
    x, y = data(40)
    tune(bundle, table(tmp_path / "bare.csv", x, y, header=False), tmp_path / "run", options(steps=1))
    order = "put this one's columns into the order of that file's and take its header line away"
    with pytest.raises(DataError, match=f"was tuned on a file without a header line, so {order}"):
        evaluate(tmp_path / "run", table(tmp_path / "named.csv", x, y))
    (tmp_path / "short.csv").write_text((tmp_path / "named.csv").read_text().partition("\n")[2])
    assert evaluate(tmp_path / "run", tmp_path / "short.csv")["examples"] == 40


def test_tuning_without_header_takes_the_last_column_as_target(bundle, tmp_path):
    x, y = data()
    table(tmp_path / "bare.csv", x, y, header=False)
    table(tmp_path / "named.csv", x, y)
    said = Said()
    tune(bundle, tmp_path / "bare.csv", tmp_path / "a", options(steps=4), progress=said)
    tune(bundle, tmp_path / "named.csv", tmp_path / "b", options(steps=4))
    assert said.header["columns"] == "no header line, so by position: input 1, 2, 3, 4; target 5"
    assert (tmp_path / "a/journal.zoj").read_bytes() == (tmp_path / "b/journal.zoj").read_bytes()


@pytest.mark.parametrize("stated", [json.dumps(NAMES), ",".join(NAMES)])
def test_the_names_of_the_source_decide(tmp_path, stated):
    made = to_bundle(
        net(tmp_path / "n.onnx", feature_names=stated),
        tmp_path / "bundle",
        task="regression",
        train=("full",),
    )
    assert made.manifest.feature_names == NAMES
    x, y = data(30)
    same = evaluate(tmp_path / "bundle", table(tmp_path / "a.csv", x, y))
    assert evaluate(tmp_path / "bundle", table(tmp_path / "b.csv", x, y, NAMES[::-1])) == same


def test_names_that_do_not_fit_are_left_out(tmp_path):
    said = []
    path = net(tmp_path / "n.onnx", feature_names="a,b")
    made = to_bundle(path, tmp_path / "bundle", task="regression", train=("full",), say=said.append)
    assert made.manifest.feature_names == ()
    assert any("names 2 columns, which don't fit the input x" in text for text in said)


def test_the_merged_model_tells_its_columns_and_is_read_by_them(run, tmp_path):
    opened = Run.open(run[0])
    write_merged(opened.bundle(), opened.weights(), tmp_path / "merged", columns=opened.facts.columns)
    model = onnx.load(tmp_path / "merged" / "model.onnx")
    onnx.checker.check_model(model)
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"feature_names": list(NAMES)}
    again = to_bundle(
        tmp_path / "merged" / "model.onnx", tmp_path / "again", task="regression", train=("full",)
    )
    assert again.manifest.feature_names == NAMES


def test_names_that_merely_count_tell_nothing_of_the_columns(bundle, tmp_path):
    x, y = data(40)
    tune(bundle, table(tmp_path / "bare.csv", x, y, header=False), tmp_path / "run", options(steps=2))
    merge(tmp_path / "run", tmp_path / "merged")
    path = tmp_path / "merged" / "model.onnx"
    again = to_bundle(path, tmp_path / "again", task="regression", train=("full",))
    assert again.manifest.feature_names == ()
    named = evaluate(again, table(tmp_path / "named.csv", x, y))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (wanted,) = session.run(None, {given.name: x.astype(np.float32)})
    assert named["mse"] == pytest.approx(float(np.square(wanted.ravel() - y.ravel()).mean()), rel=1e-5)
