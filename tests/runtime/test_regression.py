"""Regression end to end: columns by name, targets of any size, metrics as scikit-learn has them."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from sklearn import metrics as sk

from zoedge.bundle import Bundle
from zoedge.errors import DataError, InputError
from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.outputs import merge
from zoedge.runtime.records import Step
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune
from zoedge.tensor_file import map_tensors

NAMES = ("age", "rooms", "tax", "area")
TRAIN = ("full", "fc.bias")  # a bias of one element is trained by its name at least
SLOPES = np.array([[1.0, -2.0, 0.5, 3.0], [0.3, 0.1, -1.0, 0.2]])


def net(path, *, outputs=1, trained=None, feature_names=None):
    """x [batch, 4] -> y [batch, outputs]: linear, random or (slopes, offsets)."""
    rng = np.random.default_rng(5)
    weight, bias = trained or (rng.normal(size=(outputs, 4)) * 0.1, np.zeros(outputs))
    tensors = {"fc.weight": weight, "fc.bias": bias}
    node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], transB=1)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if feature_names:
        helper.set_model_props(model, {"feature_names": feature_names})
    onnx.save(model, path)
    return path


def two_layers(path):
    """x [batch, 4] -> y [batch, 1] by eight hidden units."""
    rng = np.random.default_rng(6)
    shapes = {"body.weight": (8, 4), "body.bias": (8,), "fc.weight": (1, 8), "fc.bias": (1,)}
    gemm = [
        helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], [y], transB=1)
        for x, name, y in (("x", "body", "h"), ("a", "fc", "y"))
    ]
    graph = helper.make_graph(
        [gemm[0], helper.make_node("Tanh", ["h"], ["a"]), gemm[1]],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array((0.4 * rng.normal(size=shape)).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def data(count=200, outputs=1, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4))
    y = x @ SLOPES[:outputs].T + 0.1 * rng.normal(size=(count, outputs))
    return x, y * scale + offset


def table(path, x, y, order=NAMES, target=("label",), *, extra=None, header=True):
    columns = dict(zip(NAMES, x.T, strict=True)) | dict(zip(target, y.T, strict=True)) | (extra or {})
    names = [*order, *(name for name in columns if name not in NAMES and name not in order)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(names)
        writer.writerows(zip(*(columns[name] for name in names), strict=True))
    return path


def options(**changes):
    return TuneOptions(
        **({"steps": 60, "method": "fzoo", "lr": 0.05, "batch_size": 16, "threads": 1} | changes)
    )


class Said(Silent):
    def __init__(self):
        self.header, self.notes, self.evaluations = {}, [], []

    def start(self, header, extent, step):
        self.header = dict(header)

    def evaluation(self, row):
        self.evaluations.append(row)

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    to_bundle(net(folder / "net.onnx"), folder / "bundle", task="regression", train=TRAIN)
    return folder / "bundle"


@pytest.fixture(scope="module")
def run(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    table(folder / "train.csv", *data())
    said = Said()
    tune(bundle, folder / "train.csv", folder / "run", options(), progress=said)
    return folder / "run", said


# -- columns --------------------------------------------------------------------------------------------------


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
    whole, parts = (journal.read(tmp_path / name / "journal.zoj") for name in ("whole", "run"))
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
    assert len(journal.read(run.journal).records) > 3


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
    with pytest.raises(DataError, match="was tuned on a file without a header line, so take this one's away"):
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
    merge(opened.bundle(), opened.weights(), tmp_path / "merged", columns=opened.facts.columns)
    model = onnx.load(tmp_path / "merged" / "model.onnx")
    onnx.checker.check_model(model)
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"feature_names": list(NAMES)}
    again = to_bundle(
        tmp_path / "merged" / "model.onnx", tmp_path / "again", task="regression", train=("full",)
    )
    assert again.manifest.feature_names == NAMES


# -- targets --------------------------------------------------------------------------------------------------


def stock(run, tmp_path, x):
    """Predictions of the merged model under plain onnxruntime."""
    merge(run.bundle(), run.weights(), tmp_path / "merged")
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
    assert journal.read(whole.journal).records == journal.read(parts.journal).records
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
        for record in journal.read(run.journal).records
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
    before = load_buffers(Bundle.open(tmp_path / "bundle"))
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
