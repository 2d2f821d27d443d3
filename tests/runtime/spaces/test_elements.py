"""Steps that move a share of the elements only: which, what stays, replay and resume."""

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.hand_bundle import DENSE, LORA, manifest
from tests.rates import RATES
from zoedge.manifest import ACTIVATIONS_FILE
from zoedge.methods import RECIPES
from zoedge.options import load_options, make
from zoedge.runtime.device import Cpu
from zoedge.runtime.noise.reference import PURPOSE_SAMPLE, STRETCH, Sample, Stream, stretches, tensor_id
from zoedge.runtime.plan import make_plan, written_elements

SHAPES = {"w": (96, 64), "v": (5_001,), "b": (7,)}
SINGLY = sorted(
    name for name, recipe in RECIPES.items() if "active_elements" in recipe.options.__struct_fields__
)
METHODS = [(method, placement) for method in SINGLY for placement in ("in-place", "out-of-place")]


def taking_part(name, step, share):
    size = int(np.prod(SHAPES[name]))
    drawn = Sample(Stream(0, tensor_id(name), step, 0, PURPOSE_SAMPLE), share)
    return np.repeat(stretches(drawn, 0, -(-size // STRETCH)), STRETCH)[:size].reshape(SHAPES[name])


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


@pytest.mark.parametrize(("method", "placement"), METHODS)
def test_the_other_elements_keep_their_bits(method, placement):
    arrays = buffers(dense(SHAPES))
    f = fold(dense(SHAPES), arrays, method=method, placement=placement, active_elements=0.3, weight_decay=0.1)
    for step in range(6):
        before = copies(arrays)
        run(f, parabola, 1, RATES[method].wide)
        for name, array in arrays.items():
            moved = taking_part(name, step, 0.3)
            assert (array != before[name])[moved].sum() >= 0.97 * moved.sum()
            np.testing.assert_array_equal(array[~moved], before[name][~moved])


@pytest.mark.parametrize(("method", "placement"), METHODS)
def test_all_probes_of_a_step_move_the_same_elements(method, placement):
    arrays = buffers(dense(SHAPES))
    f = fold(dense(SHAPES), arrays, method=method, placement=placement, active_elements=0.5)
    drawn = []
    for step in range(4):
        start, points = copies(arrays), []

        def at(indices, points=points):
            for _ in indices:
                f.parameters.settle()
                points.append(copies(arrays))
                yield parabola(arrays)

        f.apply(f.measure(RATES[method].wide, at))
        f.rest()
        seen = [p for p in [*points, arrays] if bits(p) != bits(start)]
        assert len(seen) >= len(points)  # all but the base of a one-sided estimate, and the update
        for name in SHAPES:
            moved = taking_part(name, step, 0.5)
            for point in seen:
                np.testing.assert_array_equal(point[name][~moved], start[name][~moved])
                assert (point[name] != start[name])[moved].sum() >= 0.97 * moved.sum()
        drawn.append(taking_part("w", step, 0.5).tobytes())
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("method", SINGLY)
def test_the_placement_does_not_decide_which_elements_move(method):
    arrays = {placement: buffers(dense(SHAPES)) for placement in ("in-place", "out-of-place")}
    for placement, own in arrays.items():
        f = fold(
            dense(SHAPES), own, method=method, placement=placement, active_elements=0.3, weight_decay=0.1
        )
        run(f, parabola, 5, RATES[method].wide)
    for name in SHAPES:
        np.testing.assert_allclose(arrays["in-place"][name], arrays["out-of-place"][name], atol=2e-5)


@pytest.mark.parametrize(("method", "placement"), METHODS)
def test_replay_and_resume_give_the_same_bits(method, placement):
    def start(**more):
        arrays = buffers(m)
        settings = {"weight_decay": 0.01, "elements": 0.4} | more
        return arrays, fold(m, arrays, method=method, placement=placement, **settings)

    m = dense(SHAPES, no_decay=("b",))
    (whole, first), (rebuilt, second), (_, third), (resumed, fourth) = (
        start(),
        start(device=Cpu()),
        start(),
        start(),
    )
    records = run(first, parabola, 20, RATES[method].wide)
    second.replay(records)  # never settles in between: terms of many steps in one pass
    second.rest()
    run(third, parabola, 13, RATES[method].wide)
    fourth.restore(copies(third.snapshot()))
    run(fourth, parabola, 7, RATES[method].wide)
    assert bits(rebuilt) == bits(whole)
    assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_that_share_a_pass_are_steps_in_turn(weight_decay):
    """The update of a step and the perturbation of the next, of other elements, are made at once."""
    fused, apart = buffers(dense(SHAPES)), buffers(dense(SHAPES))
    settings = {"elements": 0.4, "weight_decay": weight_decay, "device": Cpu()}
    records = run(fold(dense(SHAPES), fused, **settings), parabola, 8, RATES["mezo"].wide)
    f = fold(dense(SHAPES), apart, **settings)
    for record in records:
        f.replay([record])
        f.rest()
    assert bits(fused) == bits(apart)


@pytest.mark.parametrize(("method", "placement"), METHODS)
def test_a_share_of_one_is_every_element(method, placement):
    one, all_of_them = buffers(dense(SHAPES)), buffers(dense(SHAPES))
    given = {"method": method, "placement": placement}
    run(fold(dense(SHAPES), one, active_elements=1.0, **given), parabola, 5, RATES[method].wide)
    run(fold(dense(SHAPES), all_of_them, **given), parabola, 5, RATES[method].wide)
    assert bits(one) == bits(all_of_them)


def test_low_rank_directions_move_all():
    share, whole = buffers(dense(SHAPES)), buffers(dense(SHAPES))
    run(fold(dense(SHAPES), share, method="subzero", active_elements=0.1), parabola, 3, 1e-5)
    run(fold(dense(SHAPES), whole, method="subzero"), parabola, 3, 1e-5)
    assert bits(share) == bits(whole)


@pytest.mark.parametrize(("method", "placement"), METHODS)
def test_descends_a_parabola(method, placement):
    m = dense({"w": (3, STRETCH), "b": (40,)})
    arrays = buffers(m)
    before = parabola(arrays)
    f = fold(
        m,
        arrays,
        method=method,
        placement=placement,
        active_elements=0.5,
        queries=8,
        eps=1e-2,
        device=Cpu(),
    )
    run(f, parabola, 500, RATES[method].share)
    assert parabola(arrays) < 0.55 * before


def notes(bundle, **settings):
    loaded = load_options(None, settings)
    return make_plan(loaded.options, bundle, 100, False, loaded.given).notes


DENSE_BUNDLE = manifest(lora=False, trainable=DENSE)
BRANCHES = manifest(lora=True, trainable=LORA, files={ACTIVATIONS_FILE: "0" * 64})


@pytest.mark.parametrize(
    ("bundle", "settings", "note"),
    [
        (DENSE_BUNDLE, {"method": "subzero"},
         "--active-elements has no effect here: subzero has no such setting, "
         f"{', '.join(SINGLY[:-1])} and {SINGLY[-1]} have"),
        (BRANCHES, {},
         "--active-elements has no effect here: a small matrix moves in each LoRA branch, and nothing else"),
        (DENSE_BUNDLE, {},
         "--active-elements 0.5 leaves 3% of the steps without a move, as what is tuned has only 5 stretches of "
         "1,024 elements to draw from: give a larger share, or leave it out"),
    ],
)  # fmt: skip
def test_a_share_that_does_nothing_or_too_little_is_said(bundle, settings, note):
    assert notes(bundle, active_elements=0.5, **settings) == (note,)


def test_a_share_that_suits_is_not():
    assert notes(DENSE_BUNDLE, active_elements=0.9) == ()
    assert notes(DENSE_BUNDLE) == ()


@pytest.mark.parametrize(
    ("bundle", "settings", "elements"),
    [
        (DENSE_BUNDLE, {"placement": "in-place"}, 131),
        (DENSE_BUNDLE, {"placement": "in-place", "active_elements": 0.25}, 33),
        (DENSE_BUNDLE, {"placement": "out-of-place", "active_elements": 0.25}, 131),
        (DENSE_BUNDLE, {"placement": "in-place", "active_elements": 0.25, "method": "subzero"}, 131),
        (BRANCHES, {"placement": "in-place", "active_elements": 0.25}, 32),
    ],
)
def test_how_many_elements_a_move_writes(bundle, settings, elements):
    assert written_elements(bundle, make_plan(make(settings), bundle, 100, False)) == elements
