"""Steps that come from elsewhere, answers that are no losses, and points whose number varies."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from zoedge.methods import Dense, Estimator, Method, Move
from zoedge.methods.rules import Sgd
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.records import Step

SHAPES = {"a.weight": (20, 15), "b.weight": (30,)}


def gradient(arrays):
    return {name: 2.0 * (a.astype(np.float64) - 1.0) for name, a in arrays.items()}


@dataclass(frozen=True)
class Derivatives(Estimator):
    """Asks for directional derivatives at theta, one answer a direction, and one direction more every other step."""

    queries: int = 2

    @property
    def most_points(self):
        return self.queries + 1

    def points(self, state, eps):
        more = int(state["parity"])
        return tuple((Move(k, 0.0),) for k in range(self.queries + more))

    def coefficients(self, state, answers, eps):
        return tuple(answers)

    def loss(self, answers):
        return float("nan")


@dataclass(frozen=True)
class Counted(Sgd):
    def init(self):
        return {"parity": 0.0}

    def update(self, state, g, lr):
        _, update = super().update(state, g, lr)
        return {"parity": 1.0 - state["parity"]}, update


METHOD = Method(Dense("gaussian"), Derivatives(), Counted())


def with_derivatives(arrays):
    f = fold(dense(SHAPES), arrays, method="mezo", placement="in-place")
    f.method, f.state = METHOD, METHOD.init()
    return f


def answers(f, arrays, points):
    """Derivatives along the directions, which a session could return instead of losses."""
    f.parameters.settle()
    slope = gradient(arrays)
    for k in points:
        yield sum(
            float((slope[n] * directions(Stream(0, tensor_id(n), f.step, k), a.shape)).sum())
            for n, a in arrays.items()
        )


def test_answers_may_be_derivatives_and_their_number_may_vary():
    arrays = buffers(dense(SHAPES))
    before, f, records = parabola(arrays), with_derivatives(arrays), []
    for _ in range(500):
        records.append(f.measure(1e-3, lambda points: answers(f, arrays, points)))
        f.apply(records[-1])
    f.rest()
    assert parabola(arrays) < 0.4 * before
    assert [len(record.answers) for record in records[:4]] == [2, 3, 2, 3]
    assert np.isnan(METHOD.loss(records[0].answers))
    again = buffers(dense(SHAPES))
    replayed = with_derivatives(again)
    replayed.replay(records)
    replayed.rest()
    assert bits(again) == bits(arrays)


class Modest(Derivatives):
    """Asks for more points than it says."""

    @property
    def most_points(self):
        return 1


def test_more_points_than_a_method_says_are_refused():
    f = with_derivatives(buffers(dense(SHAPES)))
    f.method = replace(METHOD, estimator=Modest())
    with pytest.raises(ValueError, match="2 points are asked for, above the 1 at most"):
        f.measure(1e-3, lambda points: [0.0 for _ in points])


class MeasuredElsewhere:
    """``Steps`` whose answers another replica of the parameters measured: only scalars come over."""

    def __init__(self, replica, loss):
        self._replica, self._loss = replica, loss

    def next(self, fold, lr):
        there = self._replica

        def losses(points):
            for _ in points:
                there.parameters.settle()
                yield self._loss(there.parameters.buffers)

        record = there.measure(lr, losses)
        there.apply(record)
        return Step(fold.step, record.lr, record.answers)


@pytest.mark.parametrize("method", ["mezo", "fzoo", "subzero"])
def test_a_replica_that_measures_nothing_stays_bit_identical(method):
    here, there = buffers(dense(SHAPES)), buffers(dense(SHAPES))
    follower = fold(dense(SHAPES), here, method=method)
    leader = fold(dense(SHAPES), there, method=method)
    steps = MeasuredElsewhere(leader, parabola)
    for _ in range(10):
        record = steps.next(follower, 1e-3)
        follower.measure(record.lr, lambda points, answers=record.answers: [answers[p] for p in points])
        follower.apply(record)
    follower.rest()
    leader.rest()
    assert bits(here) == bits(there)
    alone = buffers(dense(SHAPES))
    run(fold(dense(SHAPES), alone, method=method), parabola, 10, 1e-3)
    assert bits(alone) == bits(here)
