"""DiZO: what a projection moves, how far, and that it is the published one."""

import math

import numpy as np
import pytest

from tests.builders.devices import Counting
from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.networks import deep, mlp, rows
from tests.zoedge.commands import error
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.methods import find_recipe
from zoedge.methods.support import Projection
from zoedge.options import make
from zoedge.runtime.device import Cpu
from zoedge.runtime.evaluate import evaluate
from zoedge.runtime.job import build_fold
from zoedge.runtime.machine.memory import memory_held
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.plan import make_plan
from zoedge.runtime.records import Step
from zoedge.runtime.run.journal import read_journal
from zoedge.runtime.spaces.projected import distance
from zoedge.runtime.spaces.support import Moved, Support
from zoedge.runtime.tune import tune

SHAPES = {
    "l.0.query.weight": (9, 7),
    "l.0.key.weight": (9, 7),
    "l.0.value.weight": (6, 9),
    "l.0.value.bias": (6,),
}
PROJECTED = ("l.0.query.weight", "l.0.value.weight")
WHERE = pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
SETTINGS = {"method": "dizo", "project": "query-value", "project_every": 4, "project_steps": 3}


def begun(placement, **settings):
    arrays = buffers(dense(SHAPES))
    return arrays, fold(dense(SHAPES), arrays, placement=placement, **{**SETTINGS, **settings})


def by_hand(start, theta, answers_of, first, *, tau=0.2, eps=0.1, rate=2.0, times=3):
    """A projection in float64; yield gamma / n of every matrix after each step."""
    gone = {n: theta[n].astype(np.float64) - start[n] for n in PROJECTED}
    size = {n: np.linalg.norm(g) for n, g in gone.items()}
    gamma = dict(size)
    for step in range(first, first + times):
        z = {}
        for n in PROJECTED:
            drawn = directions(Stream(0, tensor_id(n), step, 0), (1,))[0]
            z[n] = np.clip(drawn, -tau / eps * size[n], tau / eps * size[n])
        losses = []
        for sign in (1.0, -1.0):
            at = {n: start[n] + (gamma[n] + sign * eps * z[n]) / size[n] * gone[n] for n in PROJECTED}
            losses.append(answers_of(theta | at))
        g = (losses[0] - losses[1]) / (2 * eps)
        for n in PROJECTED:
            moved = gamma[n] - rate * size[n] * g * z[n]
            gamma[n] = np.clip(moved, (1 - tau) * size[n], (1 + tau) * size[n])
        yield step, {n: start[n] + gamma[n] / size[n] * gone[n] for n in PROJECTED}, losses


@WHERE
@pytest.mark.parametrize("rate", [2.0, 0.01])
def test_a_projection_is_the_published_one(placement, rate):
    arrays, f = begun(placement, project_rate=rate)
    start = {n: a.astype(np.float64) for n, a in arrays.items()}
    run(f, parabola, 4, 1e-3)
    theta = {n: a.copy() for n, a in arrays.items()}
    for step, wanted, losses in by_hand(start, theta, parabola, 4, rate=rate):
        (record,) = run(f, parabola, 1, 1e-3)
        assert record.step == step
        np.testing.assert_allclose(record.answers, losses, rtol=1e-5)
        for name, value in wanted.items():
            np.testing.assert_allclose(arrays[name], value, atol=2e-5)
        for name in set(SHAPES).difference(PROJECTED):
            np.testing.assert_array_equal(arrays[name], theta[name])


@WHERE
def test_scalars_stay_within_the_range_and_both_ends_are_reached(placement):
    ends = set()
    for seed in range(6):
        arrays, f = begun(placement, project_rate=1e3, seed=seed)
        start = {n: a.copy() for n, a in arrays.items()}
        run(f, parabola, 4, 1e-3)
        before = {n: distance(arrays[n], start[n]) for n in PROJECTED}
        run(f, parabola, 3, 1e-3)
        for name in PROJECTED:
            share = distance(arrays[name], start[name]) / before[name]
            assert share == pytest.approx(0.8, abs=1e-4) or share == pytest.approx(1.2, abs=1e-4)
            ends.add(round(share, 1))
    assert ends == {0.8, 1.2}


def test_a_projection_finds_a_lower_loss():
    """All matrices have gone too short a way: their scalars grow to the bound."""
    arrays, f = begun("out-of-place", project_rate=0.05, project_steps=10)
    run(f, parabola, 4, 1e-3)
    before = parabola(arrays)
    run(f, parabola, 10, 1e-3)
    assert parabola(arrays) < before


@WHERE
def test_what_has_not_moved_has_no_scalar(placement):
    arrays, f = begun(placement)
    before = bits(arrays)
    run(f, parabola, 4, 1e-30)
    assert bits(arrays) == before or placement == "in-place"
    arrays, f = begun("out-of-place")
    run(f, parabola, 7, 1e-30)
    assert bits(arrays) == before


@WHERE
@pytest.mark.parametrize("device", [Cpu, Counting])
@pytest.mark.parametrize("at", range(3, 8))
def test_an_interruption_within_a_projection_and_a_replay_change_no_bit(placement, device, at):
    m, own = dense(SHAPES), device()

    def start():
        held = {n: own.own(a.copy()) for n, a in buffers(m).items()}
        return held, fold(m, held, placement=placement, device=own, **SETTINGS)

    def go(f, held, steps):
        def losses(points):
            for _ in points:
                f.parameters.settle()
                yield parabola({n: own.host(b) for n, b in held.items()})

        records = []
        for _ in range(steps):
            records.append(f.measure(1e-3, losses))
            f.apply(records[-1])
        f.rest()
        return records

    whole, first = start()
    records = go(first, whole, 12)
    _, second = start()
    go(second, second.parameters.buffers, at)
    third, other = start()
    other.restore({n: np.array(v) for n, v in second.snapshot().items()})
    go(other, third, 12 - at)
    fourth, replayed = start()
    replayed.replay(records)
    replayed.rest()
    found = [bits({n: own.host(b) for n, b in held.items()}) for held in (whole, third, fourth)]
    assert found[0] == found[1] == found[2]


@WHERE
@pytest.mark.parametrize("bad_at", [2, 4, 5, 6])
def test_skipped_steps_count_as_turns_and_move_nothing(placement, bad_at):
    arrays, f = begun(placement, project_rate=1e-3)
    for step in range(9):
        before = {n: a.copy() for n, a in arrays.items()}
        if step == bad_at:
            record = f.measure(1e-3, lambda points: [(f.parameters.settle(), math.nan)[1] for _ in points])
            assert f.apply(record) is None
            f.rest()
            for name, value in before.items():
                np.testing.assert_allclose(arrays[name], value, atol=1e-6)
        else:
            run(f, parabola, 1, 1e-3)
            moved = {n for n, value in before.items() if not np.array_equal(value, arrays[n])}
            assert moved == (set(PROJECTED) if 4 <= step < 7 else set(SHAPES))
    assert f.state["turn"] == 9 % 7


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("query-value", {"a.query.w", "b.v_proj.w", "c.q_lin.lora_A.w"}),
        ("value-key", {"d.k_proj.w", "b.v_proj.w"}),
        ("all", {"a.query.w", "b.v_proj.w", "c.q_lin.lora_A.w", "d.k_proj.w", "fc.w"}),
    ],
)
def test_matrices_are_taken_by_what_they_are_called(which, names):
    every = {"a.query.w", "b.v_proj.w", "c.q_lin.lora_A.w", "d.k_proj.w", "fc.w"}
    projection = Projection(which, 50, 10, 0.2, 0.1)
    assert {name for name in every if projection.takes(name)} == names


def test_turns_are_a_function_of_the_step():
    support = Support((Projection("all", 4, 3, 0.2, 0.1),), Moved(("a", "b"), (), projected={"a"}), 0)
    parts = [support.at(step, None) for step in range(14)]
    assert [len(p) for p in parts] == 2 * [2, 2, 2, 2, 1, 1, 1]
    assert [p["a"].projection for p in parts] == [*4 * [None], *3 * [4], *4 * [None], *3 * [11]]


def test_without_such_matrices_it_is_refused(tmp_path):
    with pytest.raises(InputError, match="none is tuned by such a name: give --project all"):
        fold(dense({"fc.weight": (3, 3)}), buffers(dense({"fc.weight": (3, 3)})), **SETTINGS)
    bias = dense({"fc.bias": (3,)})
    with pytest.raises(InputError, match="dizo projects matrices, and none is tuned"):
        fold(bias, buffers(bias), **SETTINGS | {"project": "all"})
    mlp(tmp_path / "mlp.onnx")
    rows(tmp_path / "data.jsonl", 60)
    to_bundle(tmp_path / "mlp.onnx", tmp_path / "bundle", task="classification", train=("full",))
    arguments = ["tune", tmp_path / "bundle", "-d", tmp_path / "data.jsonl", "-o", tmp_path / "run"]
    assert error(*arguments, "--method", "dizo") == (
        "Error: dizo projects query and value matrices, and none is tuned by such a name: give --project all\n"
    )
    told = error(*arguments, "--method", "dizo", "--project-range", 1)
    assert told == "Error: --project-range is 1.0 and must be above 0 and below 1 for dizo\n"


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
def test_on_a_bundle_it_learns_with_two_passes_a_step(tmp_path, placement):
    deep(tmp_path / "deep.onnx")
    rows(tmp_path / "data.jsonl", 120)
    to_bundle(tmp_path / "deep.onnx", tmp_path / "bundle", task="classification", train=("full",))
    given = {
        "method": "dizo",
        "steps": 120,
        "lr": 3e-3,
        "batch_size": 16,
        "eval_every": 0,
        "placement": placement,
    }
    tune(tmp_path / "bundle", tmp_path / "data.jsonl", tmp_path / "run", make(given))
    records = [r for r in read_journal(tmp_path / "run" / "journal.zoj").records if isinstance(r, Step)]
    assert (
        sum(len(record.answers) for record in records) == 2 * 50 * 2 + 2 * 20
    )  # two cycles, as the paper counts
    before = evaluate(tmp_path / "bundle", tmp_path / "data.jsonl")["loss"]
    assert evaluate(tmp_path / "run", tmp_path / "data.jsonl")["loss"] < before


def test_exported_values_are_read_from_the_file_and_not_kept(tmp_path):
    """In place no second copy of the weights is made."""
    deep(tmp_path / "deep.onnx", layers=2, hidden=1500)
    to_bundle(tmp_path / "deep.onnx", tmp_path / "bundle", task="classification", train=("full",))
    bundle = Bundle.open(tmp_path / "bundle")
    options = make({"method": "dizo", "placement": "in-place", "batch_size": 8, "project_every": 1})
    f = build_fold(bundle, Cpu(), make_plan(options, bundle.manifest, 64, has_validation=True))
    f.parameters.device.settle_pages(f.parameters.buffers.values())
    before = memory_held().anonymous
    for _ in range(4):
        f.apply(f.measure(1e-3, lambda points: [(f.parameters.settle(), 1.0 + p)[1] for p in points]))
    f.rest()
    copy = sum(b.nbytes for n, b in f.parameters.buffers.items() if "query" in n or "value.w" in n)
    assert copy > 30e6
    assert memory_held().anonymous - before < 0.5 * copy


def test_points_on_average_count_the_steps_of_projections():
    recipe = find_recipe("dizo")
    method = recipe.build(recipe.options(queries=3, project_every=4, project_steps=3))
    state, asked = method.init(), []
    for steps in range(1, 18):
        asked.append(len(method.ask(state, 1e-3)))
        state = method.skipped(state)
        assert method.mean_points(steps) == pytest.approx(sum(asked) / steps)
    assert method.told_points == "2 to 6"
