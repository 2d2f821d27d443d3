"""Steps that move some layers only (LeZO): which, what stays, replay and resume."""

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.rates import METHODS, RATES
from zoedge.errors import InputError
from zoedge.methods import RECIPES
from zoedge.methods.support import Layers
from zoedge.runtime.spaces.support import Moved, Support, layer_of

SHAPES = {"embed": (6,)} | {f"h.{i}.{n}": (5, 4) for i in range(8) for n in ("up.weight", "down.weight")}
WHERE = [(method, placement) for method in METHODS for placement in ("in-place", "out-of-place")]


def active(names, share, seed, step):
    """The layers of what a step moves."""
    support = Support((Layers(share),), Moved(tuple(names), ()), seed)
    return frozenset(map(layer_of, support.at(step, None)))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.decoder.layers.3.fc1.weight", "model.decoder.layers.3"),
        ("encoder.blocks.0.experts.7.weight", "encoder.blocks.0"),
        ("lm_head.weight", None),
        ("layer1.weight", None),
    ],
)
def test_a_layer_is_the_name_up_to_the_first_number(name, layer):
    assert layer_of(name) == layer


def test_layers_are_drawn_by_seed_and_step():
    drawn = [active(SHAPES, 0.25, 0, step) for step in range(64)]
    assert all(len(d) == 3 and None in d for d in drawn)
    assert len(set(drawn)) > 8
    assert set().union(*drawn) == {None, *(f"h.{i}" for i in range(8))}
    assert drawn == [active(reversed(list(SHAPES)), 0.25, 0, step) for step in range(64)]
    assert drawn != [active(SHAPES, 0.25, 1, step) for step in range(64)]


def test_a_small_share_is_one_layer():
    assert len(active(SHAPES, 0.01, 0, 0)) == 2


def test_without_numbered_layers_a_share_is_refused():
    with pytest.raises(InputError, match=r"--active-layers 0\.5 needs"):
        active(["weight", "bias"], 0.5, 0, 0)


@pytest.mark.parametrize(("method", "placement"), WHERE)
def test_the_other_layers_stay(method, placement):
    m = dense(SHAPES)
    arrays = buffers(m)
    f = fold(m, arrays, method=method, placement=placement, active_layers=0.25)
    for step in range(6):
        before = bits(arrays)
        run(f, parabola, 1, 1e-3)
        moved = {name for name, after in bits(arrays).items() if after != before[name]}
        layers = active(SHAPES, 0.25, 0, step)
        assert moved == {name for name in SHAPES if layer_of(name) in layers}


@pytest.mark.parametrize(("method", "placement"), WHERE)
def test_replay_and_resume_give_the_same_bits(method, placement):
    def start():
        arrays = buffers(m)
        given = {"weight_decay": 0.01, "active_layers": 0.5}
        return arrays, fold(m, arrays, method=method, placement=placement, **given)

    m = dense(SHAPES)
    (whole, first), (rebuilt, second), (_, third), (resumed, fourth) = (start() for _ in range(4))
    records = run(first, parabola, 20, 1e-3)
    second.replay(records)
    second.rest()
    run(third, parabola, 13, 1e-3)
    fourth.restore({k: v.copy() for k, v in third.snapshot().items()})
    run(fourth, parabola, 7, 1e-3)
    assert bits(rebuilt) == bits(whole)
    assert bits(resumed) == bits(whole)


def test_a_share_of_one_is_every_layer():
    m = dense(SHAPES)
    one, all_of_them = buffers(m), buffers(m)
    run(fold(m, one, active_layers=1.0), parabola, 5, 1e-3)
    run(fold(m, all_of_them), parabola, 5, 1e-3)
    np.testing.assert_equal(bits(one), bits(all_of_them))


@pytest.mark.parametrize("method", METHODS)
def test_directions_can_be_of_another_distribution(method):
    m = dense({"w": (64, 64)})
    moved = {}
    for distribution in ("gaussian", "rademacher", "own"):
        arrays = buffers(m)
        start = arrays["w"].copy()
        directions = {} if distribution == "own" else {"directions": distribution}
        f = fold(m, arrays, method=method, placement="out-of-place", queries=2, **directions)
        run(f, parabola, 1, RATES[method].wide)
        moved[distribution] = arrays["w"] - start
    own = RECIPES[method].options().directions
    np.testing.assert_array_equal(moved["own"], moved[own])
    assert not np.array_equal(moved["gaussian"], moved["rademacher"])
