"""A form of the loss graph that only runs of five rows take: all of it in this file, and one line registers it."""

from functools import partial

import onnx
import pytest

from tests.builders.networks import mlp, rows
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.export.forms.agreement import losses_agree
from zoedge.export.forms.base import FormGraphs
from zoedge.forms import FORMS, WHOLE, Form
from zoedge.manifest import LOSS_FILE
from zoedge.names import LOSS, in_graph
from zoedge.options import TuneOptions
from zoedge.runtime.passes.ways.use import FormUse
from zoedge.runtime.records import Step
from zoedge.runtime.run import journal
from zoedge.runtime.tune import tune

FILE = "loss_of_five.onnx"
LEFT_OUT = f"{FILE} gives other losses than {LOSS_FILE} and is left out"


def last_node(model, op, *more):
    """Return a copy whose loss goes through one more node."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    name = in_graph(LOSS)
    for node in made.graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
        node.input[:] = ["before" if value == name else value for value in node.input]
    made.graph.node.append(onnx.helper.make_node(op, ["before", *more], [name]))
    return made


def build(exported, assembled, manifest):
    model = last_node(assembled.loss, "Identity")
    tensors = [row.name for row in manifest.trainable]
    return FormGraphs({FILE: model}, partial(losses_agree, file=FILE, tensors=tensors), LEFT_OUT)


class OfFive(FormUse):
    def usable(self, situation):
        return FILE in situation.bundle.manifest.files and situation.rows == 5

    def open(self, situation, cache=None):
        return situation.engine(FILE)


USE = OfFive()
TOY = Form((FILE,), __name__, __name__)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(FORMS, "toy", TOY)


@pytest.fixture
def opened(monkeypatch):
    """Whether the form was opened, a list of one value each."""
    found, right = [], OfFive.open
    monkeypatch.setattr(OfFive, "open", lambda *args: (found.append(FILE), right(*args))[1])
    return found


def made(folder, say=lambda text: None):
    rows(folder / "data.jsonl", 40)
    return to_bundle(mlp(folder / "m.onnx"), folder / "b", task="classification", train=("full",), say=say)


def tuned(folder, run, batch_size, **settings):
    options = TuneOptions(
        batch_size=batch_size, few_rows="no", val_size=0.0, lr_schedule="constant", **{"steps": 4, **settings}
    )
    tune(folder / "b", folder / "data.jsonl", folder / run, options)
    return journal.read_journal(folder / run / journal.JOURNAL_FILE)


def answers(contents):
    return [record.answers for record in contents.records if isinstance(record, Step)]


def test_export_writes_it_and_a_run_of_five_rows_takes_it(tmp_path, opened):
    bundle = made(tmp_path)
    graph = onnx.load(bundle.path(FILE), load_external_data=False).graph
    assert graph.node[-1].op_type == "Identity"
    assert FILE in bundle.manifest.files
    assert tuned(tmp_path, "six", 6).header.form == WHOLE
    assert opened == []
    assert tuned(tmp_path, "five", 5).header.form == "toy"
    assert opened == [FILE]


def test_its_run_is_that_of_the_whole_graph(tmp_path, monkeypatch):
    made(tmp_path)
    with_it = answers(tuned(tmp_path, "five", 5))
    monkeypatch.delitem(FORMS, "toy")
    assert answers(tuned(tmp_path, "without", 5)) == with_it


def test_a_resumed_run_keeps_it_whatever_the_rule_is_by_then(tmp_path, monkeypatch, opened):
    made(tmp_path)
    tuned(tmp_path, "parts", 5, steps=2)
    monkeypatch.setattr(OfFive, "usable", lambda self, situation: False)
    opened.clear()
    tune(tmp_path / "b", tmp_path / "data.jsonl", tmp_path / "parts", TuneOptions(steps=4), resume=True)
    assert opened == [FILE]


def test_a_run_with_a_form_that_is_gone_says_so(tmp_path, monkeypatch):
    made(tmp_path)
    tuned(tmp_path, "run", 5, steps=2)
    monkeypatch.delitem(FORMS, "toy")
    with pytest.raises(InputError, match=r"begun with the graph form 'toy', which this zoedge doesn't have"):
        tune(tmp_path / "b", tmp_path / "data.jsonl", tmp_path / "run", TuneOptions(steps=4), resume=True)


@pytest.mark.parametrize("wrong", [("Add", "before"), ("Exp",), ("NoSuchOperator",)])
def test_a_wrong_one_is_left_out(tmp_path, monkeypatch, wrong):
    right = last_node
    monkeypatch.setitem(globals(), "last_node", lambda model, op: right(model, *wrong))
    told = []
    bundle = made(tmp_path, told.append)
    assert told == [LEFT_OUT]
    assert FILE not in bundle.manifest.files
    assert not bundle.path(FILE).exists()
    assert tuned(tmp_path, "run", 5).header.form == WHOLE


def test_a_file_that_it_was_not_said_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMS, "toy", TOY._replace(files=("other.onnx",)))
    with pytest.raises(ValueError, match=r"the form toy writes \['loss_of_five.onnx'\] and is said to write"):
        made(tmp_path)
    assert not (tmp_path / "b").exists()
