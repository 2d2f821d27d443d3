"""Tensors that move as one space have the bits that each would have in a space of its own."""

import numpy as np
import pytest

from tests.builders.devices import Counting, Reference
from zoedge.methods import Dense, Move, Update
from zoedge.runtime.device import Cpu
from zoedge.runtime.spaces import InPlace, OutOfPlace, Site, carry_out
from zoedge.runtime.spaces.parts import Part

SHAPES = {"a.weight": (3, 700), "a.bias": (5,), "b.weight": (41, 33)}


class Walked:
    """Spaces of the same tensors, one for all or one for each."""

    def __init__(self, made, device, *, together, distribution="gaussian", decays=True):
        rng = np.random.default_rng(3)
        self.device = device()
        self.buffers = {
            n: self.device.own(rng.standard_normal(s, dtype=np.float32)) for n, s in SHAPES.items()
        }
        sites = [
            Site(
                name=name,
                buffers=(buffer,),
                branch=None,
                decays=decays,
                seed=7,
                directions=Dense(distribution),
                arrays=(),
                device=self.device,
            )
            for name, buffer in self.buffers.items()
        ]
        self.spaces = [made(sites)] if together else [made([site]) for site in sites]

    def settle(self):
        carry_out(self.device, [change for space in self.spaces for change in space.settle()])
        for space in self.spaces:
            space.settled()

    def step(self, step, *, settling=True):
        for scale in (1e-3, -1e-3):
            for space in self.spaces:
                space.visit(step, (Move(0, scale), Move(1, 2 * scale)), Part())
            if settling:
                self.settle()
        update = Update((Move(0, -0.01 * (step + 1)), Move(1, 0.02)), 0.99)
        carry_out(self.device, [c for space in self.spaces for c in space.apply(step, update, Part())])

    def assign(self, name, values):
        for space in self.spaces:
            if name in space.assignable:
                space.assign({name: values})

    def bits(self):
        self.settle()
        state = {name: value for space in self.spaces for name, value in space.state().items()}
        read = {name: self.device.host(buffer).tobytes() for name, buffer in self.buffers.items()}
        return read, {name: np.asarray(value).tobytes() for name, value in state.items()}


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("device", [Reference, Counting, Cpu])
@pytest.mark.parametrize("made", [InPlace, OutOfPlace])
def test_one_space_for_all_is_one_for_each(made, device, distribution, decays):
    found = []
    for together in (True, False):
        walked = Walked(made, device, together=together, distribution=distribution, decays=decays)
        for step in range(3):
            walked.step(step)
        # while the last update may be queued still
        walked.assign("a.bias", np.arange(5, dtype=np.float32))
        walked.step(3)
        found.append(walked.bits())
    assert found[0] == found[1]


@pytest.mark.parametrize("made", [InPlace, OutOfPlace])
def test_a_replay_that_never_settles_has_the_bits_of_the_run(made):
    found = []
    for settling in (True, False):
        walked = Walked(made, Cpu, together=True)
        for step in range(4):
            walked.step(step, settling=settling)
        found.append(walked.bits())
    assert found[0] == found[1]
