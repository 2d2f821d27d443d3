"""Points that depend on answers: a round of their own, kept in one record, and what is chosen by them."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.networks import mlp, rows
from zoedge.export import to_bundle
from zoedge.methods import Move
from zoedge.methods.decisions import Lowest
from zoedge.options import make
from zoedge.runtime.bench import bench
from zoedge.runtime.estimate import estimate
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.records import Step
from zoedge.runtime.run.journal import decode, encode_record, read_journal
from zoedge.runtime.tune import tune

SHAPES = {"a.weight": (9, 7), "b.bias": (5,)}
WHERE = pytest.mark.parametrize("placement", ["in-place", "out-of-place"])


def conservative(placement="out-of-place", *, lr=1e-3, **settings):
    arrays = buffers(dense(SHAPES))
    return arrays, fold(dense(SHAPES), arrays, method="zo-sgd-cons", placement=placement, **settings)


def measured(f, lr, losses):
    """Take a step whose losses are given; return the rounds in which they were asked for."""
    rounds = []

    def answers(points):
        rounds.append(list(points))
        return [losses[point] for point in rounds[-1]]

    record = f.measure(lr, answers)
    return rounds, record, f.apply(record)


@pytest.mark.parametrize(
    ("seen", "sign"),
    [((2.0, 1.0, 3.0), 1), ((2.0, 3.0, 1.0), -1), ((1.0, 2.0, 3.0), 0), ((1.0, 1.0, 1.0), 0)],
)
@WHERE
def test_the_next_step_begins_where_the_loss_is_lowest(seen, sign, placement):
    arrays, f = conservative(placement)
    start = {n: a.astype(np.float64) for n, a in arrays.items()}
    rounds, record, told = measured(f, 1e-2, (1.002, 1.0, *seen))
    f.rest()
    assert rounds == [[0, 1], [2, 3, 4]]
    assert record.answers == (1.002, 1.0, *seen)
    assert told.g == pytest.approx((1.0,))
    for name, before in start.items():
        z = directions(Stream(0, tensor_id(name), 0, 0), before.shape)
        np.testing.assert_allclose(arrays[name], before - sign * 1e-2 * z, atol=1e-6)


def test_it_looks_where_it_would_go():
    """The points of the second round are theta, the step that mezo makes, and its opposite."""
    arrays, f = conservative(queries=2)
    seen = []

    def losses(points):
        for _ in points:
            f.parameters.settle()
            seen.append({n: a.copy() for n, a in arrays.items()})
            yield parabola(arrays)

    start = {n: a.copy() for n, a in arrays.items()}
    f.measure(1e-3, losses)
    plain = buffers(dense(SHAPES))
    run(fold(dense(SHAPES), plain, method="mezo", placement="out-of-place", queries=2), parabola, 1, 1e-3)
    theta, step, opposite = seen[4:]
    assert bits(theta) == bits(start)
    assert bits(step) == bits(plain)
    for name, value in start.items():
        np.testing.assert_allclose(opposite[name] - value, value - step[name], atol=1e-6)


@WHERE
def test_it_never_goes_up(placement):
    """On a parabola a step of mezo goes down where lr < 1 / |z|^2, and |z|^2 is about the 68 elements."""
    arrays, f = conservative(placement)
    losses = [parabola(arrays)]
    for _ in range(60):
        run(f, parabola, 1, 1 / 68)
        losses.append(parabola(arrays))
    changes = [later / earlier - 1 for earlier, later in pairwise(losses)]
    assert max(changes) < 1e-5
    stayed = sum(abs(change) < 1e-6 for change in changes)
    assert 10 < stayed < 50
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 3])
def test_a_loss_that_is_not_finite_skips_the_step(at, bad):
    arrays, f = conservative()
    before = bits(arrays)
    losses = [1.0, 1.1, 2.0, 0.5, 3.0]
    losses[at] = bad
    _, record, told = measured(f, 1e-2, losses)
    f.rest()
    assert told is None
    assert bits(arrays) == before
    assert len(record.answers) == (2 if at < 2 else 5)  # nothing follows from an estimate that isn't there
    replayed, other = conservative()
    other.replay([decode(encode_record(record))])
    other.rest()
    assert bits(replayed) == before


def test_where_float32_ends_nobody_looks():
    arrays, f = conservative()
    before = bits(arrays)
    rounds, _, told = measured(f, 1.0, (1e308, -1e308))
    f.rest()
    assert (rounds, told) == ([[0, 1]], None)
    assert bits(arrays) == before


def test_a_record_of_another_number_of_answers_is_refused():
    _, f = conservative()
    with pytest.raises(IndexError):
        f.replay([Step(0, 0.1, (1.0, 1.1, 1.2))])


def test_a_decision_names_the_first_of_equals():
    moves = (Move(0, 0.5), Move(1, -0.25))
    assert Lowest().points(moves) == ((), moves, (Move(0, -0.5), Move(1, 0.25)))
    assert Lowest().chosen(moves, [1.0, 1.0, 1.0]) == ()
    assert Lowest().chosen(moves, [2.0, 1.0, 1.0]) == moves


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 120)
    to_bundle(folder / "mlp.onnx", folder / "lora", task="classification", train=("lora",), lora_rank=4)
    return folder


def test_points_share_passes_within_a_round_and_all_is_counted(place, tmp_path):
    settings = {"method": "zo-sgd-cons", "batch_size": 16, "steps": 6, "eval_every": 0, "queries": 2}
    answers = {}
    for count in (1, 3, 9):
        folder = tmp_path / str(count)
        tune(place / "lora", place / "data.jsonl", folder, make(settings | {"points_per_pass": count}))
        answers[count] = [
            r.answers for r in read_journal(folder / "journal.zoj").records if isinstance(r, Step)
        ]
        assert {len(a) for a in answers[count]} == {7}
    np.testing.assert_allclose(answers[1], answers[3], rtol=1e-5)
    np.testing.assert_allclose(answers[1], answers[9], rtol=1e-5)
    assert bench(place / "lora", make(settings | {"points_per_pass": 1})).passes == 7
    assert bench(place / "lora", make(settings | {"points_per_pass": 3})).passes == 2 + 1
    found = estimate(place / "lora", place / "data.jsonl", make(settings | {"points_per_pass": 1}))
    assert found.passes == 7
