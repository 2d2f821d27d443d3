"""Several points in a pass, and what no trained tensor reaches once a step: the same bits as a pass for each."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.builders.networks import mlp, rows
from tests.rates import ANY_TENSORS, METHODS
from zoedge.adapters import lora_branches
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.manifest import LOSS_FILE, PREFIX_FILE, SUFFIX_FILE
from zoedge.methods import RECIPES
from zoedge.options import TuneOptions, make
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.passes.probing import OneByOne, Together
from zoedge.runtime.passes.staged import Staged
from zoedge.runtime.passes.ways import choice
from zoedge.runtime.passes.ways.choice import choose_way
from zoedge.runtime.passes.ways.situation import Situation
from zoedge.runtime.records import Step
from zoedge.runtime.run import journal
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune

TRAINS = {"lora": ("lora",), "head": ("fc2",), "full": ("full",)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 120)
    for name, train in TRAINS.items():
        to_bundle(folder / "mlp.onnx", folder / name, task="classification", train=train, lora_rank=3)
    to_bundle(folder / "mlp.onnx", folder / "int8", task="classification", train=("lora",), quantize="int8")
    return folder


def bundle(place, name):
    from zoedge.bundle import Bundle

    return Bundle.open(place / name)


def batch(rows_=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows_, 6)).astype(np.float32)
    return MicroBatch({"x": x}, {"labels": rng.integers(0, 2, rows_)}, np.arange(rows_))


def wander(buffers, names, count):
    """Give the named buffers new values at each point."""
    rng = np.random.default_rng(1)
    for point in range(count):
        for name in names:
            buffers[name][...] = rng.standard_normal(buffers[name].shape)
        yield point


def losses(probing, points):
    return [
        [out["loss"] for _, out in results]
        for results in probing.results([batch(), batch(2, 1)], points, None)
    ]


def situation(place, name, *, points=4, varying=None, asked=None):
    opened = bundle(place, name)
    buffers = load_buffers(opened, Cpu())
    factors = frozenset(opened.manifest.factors)
    return Situation(
        opened,
        buffers,
        varying or factors or frozenset(buffers),
        [batch()],
        ("loss", "weight"),
        points,
        Cpu(),
        1,
        options=TuneOptions(points_per_pass=asked),
    )


def test_only_what_helps_is_written(place):
    files = {name: bundle(place, name).manifest.files for name in TRAINS}
    assert PREFIX_FILE not in files["full"]
    assert SUFFIX_FILE not in files["full"]
    assert {PREFIX_FILE, SUFFIX_FILE} <= files["head"].keys()
    assert SUFFIX_FILE in files["lora"]


@pytest.mark.parametrize("name", ["lora", "head"])
def test_two_parts_compute_what_the_whole_does(place, name):
    opened = bundle(place, name)
    buffers = load_buffers(opened, Cpu())
    settings = {"device": Cpu(), "threads": 1}
    whole, staged = (
        Engine(opened.path(LOSS_FILE), buffers, **settings),
        Staged(opened, buffers, **settings),
    )
    assert set(staged.outputs) == set(whole.outputs)
    for _ in wander(buffers, sorted(buffers), 3):
        inputs = {**batch().inputs, **batch().targets}
        wanted, got = whole.run(inputs), staged.run(inputs)
        for output in wanted:
            np.testing.assert_array_equal(got[output], wanted[output])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_points_together_are_the_points_one_by_one(place, count):
    opened = bundle(place, "lora")
    buffers = load_buffers(opened, Cpu())
    names = sorted(buffers)
    one = OneByOne(Engine(opened.path(LOSS_FILE), buffers, device=Cpu(), threads=1))
    many = Together(Staged(opened, buffers, device=Cpu(), threads=1), buffers, count, Cpu())
    wanted = losses(one, wander(buffers, names, 7))
    got = losses(many, wander(buffers, names, 7))
    assert len(got) == 7
    for a, b in zip(wanted, got, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(got[0][0], got[1][0])


def test_a_factor_that_does_not_vary_is_read_where_it_is(place):
    opened = bundle(place, "lora")
    buffers = load_buffers(opened, Cpu())
    b = {branch.b: buffers[branch.b] for branch in lora_branches(opened.manifest)}
    buffers[lora_branches(opened.manifest)[0].a][...] = 0.3
    one = OneByOne(Engine(opened.path(LOSS_FILE), buffers, device=Cpu(), threads=1))
    wanted = losses(one, wander(buffers, sorted(b), 4))
    got = losses(
        Together(Staged(opened, buffers, device=Cpu(), threads=1), b, 4, Cpu()), wander(buffers, sorted(b), 4)
    )
    np.testing.assert_array_equal(np.array([x[0] for x in got]), np.array([x[0] for x in wanted]))


def test_the_fastest_way_is_taken(place, monkeypatch):
    seconds = {0: 1.0, 1: 0.9, 2: 0.5, 4: 0.7}
    monkeypatch.setattr(
        choice, "timed", lambda s, probing: seconds[probing.count * isinstance(probing.forward, Staged)]
    )
    chosen = choose_way(situation(place, "lora"))
    assert isinstance(chosen.forward, Staged)
    assert "2 points share a pass" in chosen.note


def test_the_whole_graph_is_taken_where_nothing_is_faster(place, monkeypatch):
    monkeypatch.setattr(choice, "timed", lambda s, probing: 1.0)
    chosen = choose_way(situation(place, "lora"))
    assert isinstance(chosen.forward, Engine)
    assert chosen.note is None


def test_other_bits_are_never_taken_however_fast(place, monkeypatch):
    monkeypatch.setattr(
        choice, "timed", lambda s, probing: 1.0 / (1 + probing.count * isinstance(probing.forward, Staged))
    )
    run = Staged.later

    def off(*a):
        wait = run(*a)
        return lambda: {k: np.nextafter(v, np.float32(9)) for k, v in wait().items() if k == "loss"}

    monkeypatch.setattr(Staged, "later", off)
    one = situation(place, "lora")
    assert isinstance(choose_way(one).forward, Engine)


def test_measuring_leaves_the_buffers_as_they_were(place):
    here = situation(place, "lora")
    before = {name: value.copy() for name, value in here.buffers.items()}
    choose_way(here)
    for name, value in before.items():
        np.testing.assert_array_equal(here.buffers[name], value)


def never(*_):
    raise AssertionError("timed")


@pytest.mark.parametrize(("rows_", "points", "count"), [(5, 4, 4), (30, 9, 4), (64, 2, 2)])
def test_few_rows_of_an_int8_base_share_a_pass_by_rule(place, monkeypatch, rows_, points, count):
    """Company changes how activations are rounded, so a timing must not decide: equal commands, equal losses."""
    monkeypatch.setattr(choice, "timed", never)
    here = replace(situation(place, "int8", points=points), batch=[batch(rows_)], rows=rows_)
    chosen = choose_way(here)
    assert chosen.asked == chosen.probing.count == count
    assert chosen.note == f"{count} points share a pass, and the steps to which int8 rounds activations"


@pytest.mark.parametrize(("rows_", "name"), [(65, "int8"), (None, "int8"), (5, "lora")])
def test_others_are_timed(place, rows_, name):
    here = replace(situation(place, name, points=2), batch=[batch(rows_ or 5)], rows=rows_)
    assert choose_way(here).asked is None


def test_equal_points_of_an_int8_base_have_equal_losses(place):
    """What eps = 0 comes to: the gradient is exactly zero."""
    here = replace(situation(place, "int8"), batch=[batch(16)], rows=16)
    probing = choose_way(here).probing
    for name in here.buffers:
        here.buffers[name][...] = np.random.default_rng(3).standard_normal(here.buffers[name].shape)
    found = [out["loss"] for results in probing.results([batch(16)], range(4), None) for _, out in results]
    assert probing.count == 4
    assert len({loss.tobytes() for loss in found}) == 1


def test_how_many_share_a_pass_is_saved_where_it_changes_numbers(place, tmp_path):
    settings = TuneOptions(method="mezo", steps=4, batch_size=16, lr_schedule="constant", val_size=0.0)
    tune(place / "int8", place / "data.jsonl", tmp_path / "whole", settings)
    tune(place / "int8", place / "data.jsonl", tmp_path / "parts", msgspec.structs.replace(settings, steps=2))
    tune(place / "int8", place / "data.jsonl", tmp_path / "parts", TuneOptions(steps=4), resume=True)
    found = [journal.read_journal(tmp_path / name / journal.JOURNAL_FILE) for name in ("whole", "parts")]
    assert [f.header.options["points_per_pass"] for f in found] == [2, 2]
    steps = [[r.answers for r in f.records if isinstance(r, Step)] for f in found]
    assert steps[0] == steps[1]


def test_a_resumed_int8_run_with_other_company_says_so(place, tmp_path):
    notes = []

    class Listen(Silent):
        def note(self, text):
            notes.append(text)

    settings = TuneOptions(method="mezo", steps=2, batch_size=16, val_size=0.0)
    tune(place / "int8", place / "data.jsonl", tmp_path / "run", settings)
    for asked in (None, 1):
        settings = TuneOptions(steps=2, points_per_pass=asked)
        tune(place / "int8", place / "data.jsonl", tmp_path / "run", settings, resume=True, progress=Listen())
    assert [text for text in notes if "goes on" in text] == [
        "the run was begun with 2 points a pass and goes on with 1: int8 rounds activations to other steps from "
        "here on"
    ]


def test_several_points_need_branches(place):
    with pytest.raises(
        InputError, match=r"--points-per-pass 2 needs a bundle whose only moved tensors are LoRA"
    ):
        choose_way(situation(place, "head", asked=2))
    with pytest.raises(InputError, match=r"--points-per-pass 2 needs"):
        choose_way(situation(place, "full", asked=2))


@pytest.mark.parametrize("space", ["factors", "activations"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_however_its_probes_are_measured(place, tmp_path, method, space):
    if space == "activations" and RECIPES[method].defaults.activations is None:
        space = "auto"
    settings = {"method": method, "steps": 6, "lr": 0.01, "batch_size": 16, "lora_space": space}
    settings |= ANY_TENSORS.get(method, {})
    for count in (1, 3):
        options = make(settings | {"points_per_pass": count})
        tune(place / "lora", place / "data.jsonl", tmp_path / str(count), options)
    found = [journal.read_journal(tmp_path / str(count) / journal.JOURNAL_FILE).records for count in (1, 3)]
    steps = [[record for record in records if isinstance(record, Step)] for records in found]
    assert steps[0] == steps[1]
    assert len({record.answers for record in steps[0]}) == 6


def test_other_bits_show_behind_a_new_head_of_zeros(tiny_encoder, tmp_path, monkeypatch):
    """With its own zeros, every loss would be the same whatever the features are."""
    made = {"task": "text-classification", "labels": ("a", "b"), "target_modules": ("*layer.1.*",)}
    opened = to_bundle(tiny_encoder, tmp_path / "bundle", **made)
    buffers = load_buffers(opened, Cpu())
    before = {name: value.copy() for name, value in buffers.items()}
    ids = np.random.default_rng(0).integers(5, 20, (4, 8))
    inputs = {port.name: np.ones_like(ids) for port in opened.manifest.inputs} | {"input_ids": ids}
    rows_ = MicroBatch(inputs, {"labels": np.array([0, 1, 0, 1])}, np.arange(4))
    factors = frozenset(opened.manifest.factors)
    here = Situation(opened, buffers, factors, [rows_], ("loss", "weight"), 4, Cpu(), 1)
    monkeypatch.setattr(choice, "timed", lambda s, probing: 1.0 - 0.9 * isinstance(probing.forward, Staged))
    assert isinstance(choose_way(here).forward, Staged)
    begin = Staged.begin

    def other(staged, given):
        begun = begin(staged, given)
        return begun | {n: v * np.float32(1.001) for n, v in begun.items() if v.dtype == np.float32}

    monkeypatch.setattr(Staged, "begin", other)
    assert isinstance(choose_way(here).forward, Engine)
    for name, value in before.items():
        np.testing.assert_array_equal(buffers[name], value)
