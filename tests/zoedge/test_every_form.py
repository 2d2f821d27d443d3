"""What every form of the loss graph keeps to, a new one too: the numbers of ``loss.onnx``, or it is left out."""

from importlib import import_module

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders.networks import CLASSES, WIDTH, mlp, rows
from zoedge.bundle import Bundle
from zoedge.export import to_bundle
from zoedge.forms import FORMS, WHOLE
from zoedge.manifest import LOSS_FILE
from zoedge.names import LOSS, in_graph
from zoedge.options import TuneOptions
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.probing import OneByOne, Together
from zoedge.runtime.passes.ways import choice
from zoedge.runtime.passes.ways.choice import choose_way
from zoedge.runtime.passes.ways.situation import Situation
from zoedge.runtime.records import Step
from zoedge.runtime.run import journal
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune

from .test_new_form import TOY

NAMES = [*(name for name, form in FORMS.items() if form.runtime), "toy"]  # the others are a device's
TRAINS = ("full", "lora", "fc2")
SETTINGS = ({}, {"few_rows": "no"})


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMS, "toy", TOY)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 60)
    for train in TRAINS:
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


def batch(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, WIDTH)).astype(np.float32)
    return MicroBatch({"x": x}, {"labels": rng.integers(0, CLASSES, count)}, np.arange(count))


def situation(bundle, **settings):
    buffers = load_buffers(bundle, Cpu())
    varying = frozenset(row.name for row in bundle.manifest.trainable)
    options = TuneOptions(**settings)
    few = [batch(options.batch_size)]
    here = (bundle, buffers, varying, few, ("loss",), 4, Cpu(), 1)
    return Situation(*here, rows=options.batch_size, options=options)


def use_of(name):
    return import_module(FORMS[name].runtime).USE


def found(place, name):
    """Return a bundle that has a form, and the settings of a run that would take it."""
    for train in TRAINS:
        bundle = Bundle.open(place / train)
        for few in SETTINGS:
            here = situation(bundle, batch_size=5, **few)
            if use_of(name).usable(here) and (use_of(name).timed or choose_way(here).form == name):
                return bundle, {"batch_size": 5, **few}
    raise AssertionError(f"no run takes the form {name}")


@pytest.mark.parametrize("name", NAMES)
def test_its_files_are_the_bundle_s(place, name):
    bundle, _ = found(place, name)
    there = [file for file in FORMS[name].files if file in bundle.manifest.files]
    assert there
    for file in there:
        assert ort.InferenceSession(bundle.path(file), providers=["CPUExecutionProvider"]).get_outputs()


@pytest.mark.parametrize("name", NAMES)
def test_its_losses_are_the_whole_graph_s_after_buffers_changed_too(place, name):
    bundle, settings = found(place, name)
    here = situation(bundle, **settings)
    whole, form = here.engine(LOSS_FILE), use_of(name).open(here)
    assert set(form.outputs) == set(whole.outputs)
    rng, seen = np.random.default_rng(1), set()
    for _ in range(3):
        for count in (1, 3, 9):
            given = batch(count, seed=count).given
            wanted, got = whole.run(given), form.run(given)
            for output in wanted:
                np.testing.assert_allclose(got[output], wanted[output], rtol=1e-4, atol=1e-5)
        seen.add(got["loss"].tobytes())
        for buffer in here.buffers.values():
            buffer += 0.1 * rng.standard_normal(buffer.shape, dtype=np.float32)
    assert len(seen) == 3


def wander(buffers):
    rng = np.random.default_rng(2)
    for point in range(5):
        for name in sorted(buffers):
            buffers[name][...] = rng.standard_normal(buffers[name].shape)
        yield point


@pytest.mark.parametrize("name", NAMES)
def test_points_that_share_a_pass_are_those_one_by_one(place, name):
    bundle, settings = found(place, name)
    here, use = situation(bundle, **settings), use_of(name)
    if not use.stacks(here):
        form = use.open(here)
        begun, stacked = (
            form.begin(batch(2).given),
            {n: here.device.alone(b) for n, b in here.buffers.items()},
        )
        with pytest.raises(ValueError, match="stacked"):
            form.finish(begun, None, stacked)
        return
    ways = (
        OneByOne(here.engine(LOSS_FILE)),
        Together(use.open(here), dict(here.buffers), 3, here.device),
    )
    found_ = [
        [out["loss"] for r in way.results([batch(4)], wander(here.buffers), None) for _, out in r]
        for way in ways
    ]
    np.testing.assert_allclose(found_[1], found_[0], rtol=1e-4)
    assert len({loss.tobytes() for loss in found_[1]}) == 5


def doubled(model):
    name = in_graph(LOSS)
    for node in model.graph.node:
        node.output[:] = ["single" if output == name else output for output in node.output]
    model.graph.node.append(onnx.helper.make_node("Add", ["single", "single"], [name]))


def unknown(model):
    model.graph.node[-1].op_type = "NoSuchOperator"


@pytest.mark.parametrize("fault", [doubled, unknown])
@pytest.mark.parametrize("name", NAMES)
def test_one_that_computes_something_else_is_left_out_with_a_sentence(
    place, tmp_path, monkeypatch, name, fault
):
    bundle, settings = found(place, name)
    module = import_module(FORMS[name].export)
    right, sentences, told = module.build, [], []

    def wrong(*args):
        made = right(*args)
        for model in made.graphs.values():
            if in_graph(LOSS) in [output.name for output in model.graph.output]:
                fault(model)
        sentences.append(made.left_out)
        return made

    monkeypatch.setattr(module, "build", wrong)
    train = (bundle.folder.name,)
    left = to_bundle(
        place / "mlp.onnx", tmp_path / "b", task="classification", train=train, lora_rank=4, say=told.append
    )
    assert [text for text in told if text in sentences] == sentences
    for file in FORMS[name].files:
        assert file not in left.manifest.files
        assert not left.path(file).exists()
    tune(left, place / "data.jsonl", tmp_path / "run", TuneOptions(steps=2, val_size=0.0, **settings))
    assert not use_of(name).usable(situation(left, **settings))


def answers(run):
    return [
        r.answers for r in journal.read_journal(run / journal.JOURNAL_FILE).records if isinstance(r, Step)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_takes_it_and_its_journal_resumes(place, tmp_path, monkeypatch, name):
    bundle, settings = found(place, name)
    use, opened = use_of(name), []
    right = type(use).open

    def watched(*args):
        opened.append(right(*args))
        return opened[-1]

    monkeypatch.setattr(type(use), "open", watched)
    monkeypatch.setattr(choice, "timed", lambda s, probing: 0.5 if probing.forward in opened else 1.0)
    assert choose_way(situation(bundle, **settings)).forward in opened
    options = {"val_size": 0.0, "lr_schedule": "constant", **settings}
    tune(bundle, place / "data.jsonl", tmp_path / "whole", TuneOptions(steps=6, **options))
    header = journal.read_journal(tmp_path / "whole" / journal.JOURNAL_FILE).header
    assert header.form == (WHOLE if use.timed else name)
    tune(bundle, place / "data.jsonl", tmp_path / "parts", TuneOptions(steps=3, **options))
    monkeypatch.setattr(type(use), "usable", lambda self, situation: False)  # a later version's rule
    tune(bundle, place / "data.jsonl", tmp_path / "parts", TuneOptions(steps=6), resume=True)
    assert answers(tmp_path / "parts") == answers(tmp_path / "whole")
