"""What every trainable space must do: those of the tables, on the processor and on a device with its own memory."""

from itertools import product

import numpy as np
import pytest

from tests.builders.devices import Counting, Reference
from zoedge.adapters import LoraBranch
from zoedge.methods import Dense, LowRank, Move, Update
from zoedge.runtime.spaces import ActivationBranch, Site, carry_out
from zoedge.runtime.spaces.parameters import BRANCH_SPACES, SPACES
from zoedge.runtime.spaces.support import Part
from zoedge.runtime.start.activations import bases

OUT, IN = 40, 30
BRANCH = LoraBranch(
    module="m", weight="m.weight", transposed=False, shape=(OUT, IN), a="m.a", b="m.b", rank=6, alpha=12.0
)
DIRECTIONS = {Dense.kind: Dense("gaussian"), LowRank.kind: LowRank("gaussian", 3)}
CASES = [("tensor", key, device) for key, device in product(SPACES, (Reference, Counting))]
CASES += [("branch", key, device) for key, device in product(BRANCH_SPACES, (Reference, Counting))]


class Made:
    """A space, and what a session would read of it."""

    def __init__(self, where, key, device, *, seed=0, decays=True):
        rng = np.random.default_rng(5)
        self.device = device()
        shapes = [(OUT, IN)] if where == "tensor" else [(BRANCH.rank, IN), (OUT, BRANCH.rank)]
        arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
        direction = key[0] if where == "tensor" else key[1]
        table = SPACES if where == "tensor" else BRANCH_SPACES
        if where == "branch":
            arrays[1][...] = 0.0
        self.buffers = tuple(self.device.own(array) for array in arrays)
        self.space = table[key](
            [
                Site(
                    name="m.weight",
                    buffers=self.buffers,
                    branch=BRANCH.branch if where == "branch" else None,
                    decays=decays,
                    seed=seed,
                    directions=DIRECTIONS[direction],
                    arrays=(),
                    device=self.device,
                )
            ]
        )
        if isinstance(self.space, ActivationBranch):
            x, y = (rng.standard_normal((50, n), dtype=np.float32) for n in (IN, OUT))
            self.space.assign(bases(BRANCH, x, y))

    def settle(self):
        carry_out(self.device, self.space.settle())
        self.space.settled()

    def at(self, step, *moves):
        """What the model sees at a point: the tensor, or what the branch adds to its matrix."""
        self.space.visit(step, moves, Part())
        self.settle()
        return self.seen()

    def seen(self):
        read = [np.array(self.device.host(buffer), np.float64) for buffer in self.buffers]
        return read[0] if len(read) == 1 else BRANCH.alpha / BRANCH.rank * read[1] @ read[0]

    def step(self, step, update):
        carry_out(self.device, self.space.apply(step, update, Part()))

    def bits(self):
        return [self.device.host(buffer).tobytes() for buffer in self.buffers]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'-'.join(case[1])}-{case[2].__name__}")
def make(request):
    return lambda **settings: Made(*request.param, **settings)


@pytest.fixture(
    params=[c for c in CASES if c[0] == "tensor"], ids=lambda c: f"{'-'.join(c[1])}-{c[2].__name__}"
)
def make_single(request):
    """What a branch learns is no parameter of its own, and as large as its layer's outputs: test_activations."""
    return lambda **settings: Made(*request.param, **settings)


def walk(made, *, settling, snapshot_at=None):
    """Take four steps of two points; settle at every point or only in the end; return the state in between."""
    state = None
    for step in range(4):
        if step == snapshot_at:
            made.settle()
            state = {name: np.array(value) for name, value in made.space.state().items()}
        for scale in (1e-3, -1e-3):
            made.space.visit(step, (Move(0, scale),), Part())
            if settling:
                made.settle()
        made.step(step, Update((Move(0, -0.01 * (step + 1)),), 0.99))
    made.settle()
    return state


def test_leaving_a_point_leads_back(make):
    made = make()
    made.at(0)
    before, bits = made.seen(), made.bits()
    there = made.at(0, Move(0, 0.01))
    assert np.abs(there - before).max() > 1e-4
    back = made.at(0)
    np.testing.assert_allclose(back, before, atol=1e-6)
    if made.space.exact:
        assert made.bits() == bits


def test_points_lie_on_a_line(make):
    made = make()
    theta = made.at(3)
    near, far, behind = (made.at(3, Move(1, s)) - theta for s in (1e-2, 2e-2, -1e-2))
    np.testing.assert_allclose(far, 2 * near, atol=2e-5)
    np.testing.assert_allclose(behind, -near, atol=2e-5)
    other = made.at(3, Move(0, 1e-2)) - theta
    both = made.at(3, Move(0, 1e-2), Move(1, 1e-2)) - theta
    np.testing.assert_allclose(both, near + other, atol=2e-5)
    assert abs(np.sum(near * other)) < 0.9 * np.linalg.norm(near) * np.linalg.norm(other)


def test_an_update_is_where_its_point_was(make):
    made, other = make(decays=False), make(decays=False)
    made.step(2, Update((Move(0, 0.02),)))
    made.settle()
    np.testing.assert_allclose(made.seen(), other.at(2, Move(0, 0.02)), atol=1e-6)


def test_what_is_seen_does_not_depend_on_when_it_is_settled(make):
    one, other = make(), make()
    walk(one, settling=True)
    walk(other, settling=False)
    if one.space.exact:
        assert one.bits() == other.bits()
    np.testing.assert_allclose(one.seen(), other.seen(), atol=1e-5)


def test_a_space_goes_on_from_its_state(make):
    whole, again = make(), make()
    state = walk(whole, settling=True, snapshot_at=2)
    assert all(np.isfinite(value).all() for value in state.values())
    again.space.load(state)
    for step in (2, 3):
        for scale in (1e-3, -1e-3):
            again.space.visit(step, (Move(0, scale),), Part())
            again.settle()
        again.step(step, Update((Move(0, -0.01 * (step + 1)),), 0.99))
    again.settle()
    assert again.bits() == whole.bits()


def test_decay_shrinks_what_was_learnt(make):
    made = make()
    made.step(0, Update((Move(0, 0.5),)))
    made.settle()
    before = made.seen()
    made.step(1, Update((), 0.5))
    made.settle()
    np.testing.assert_allclose(made.seen(), 0.5 * before, atol=1e-5)


def test_seeds_differ_and_only_what_varies_is_written(make):
    made, other = make(seed=0), make(seed=1)
    made.at(0)
    before = made.bits()
    assert not np.array_equal(made.at(0, Move(0, 0.01)), other.at(0, Move(0, 0.01)))
    names = ("m.weight",) if len(made.buffers) == 1 else (BRANCH.a, BRANCH.b)
    changed = {n for n, was, now in zip(names, before, made.bits(), strict=True) if was != now}
    assert changed <= made.space.varying


def test_a_direction_has_one_unit_an_element(make_single):
    """E||z||^2 is the number of elements: one learning rate means the same in all spaces that move a tensor."""
    made = make_single(decays=False)
    theta = made.at(0)
    sizes = [
        np.square(made.at(step, Move(0, 1.0)) - theta).sum()
        for step in range(40)
        if made.at(step) is not None
    ]
    assert np.mean(sizes) == pytest.approx(OUT * IN, rel=0.15)


def test_theta_is_the_parameters_own(make_single):
    made = make_single()
    made.at(0, Move(0, 0.01))
    theta = made.at(0)
    np.testing.assert_allclose(made.space.theta(), theta, atol=1e-6)
