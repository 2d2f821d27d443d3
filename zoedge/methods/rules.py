"""Rules: from rescaled coefficients to an update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .core import Move, Point, Rule, State, Tensor, Update


@dataclass(frozen=True)
class Sgd(Rule):
    """theta <- (1 - lr wd) theta - lr mean_k(g_k z_k): stochastic gradient descent with decoupled weight decay."""

    weight_decay: float = 0.0

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the moves, one per direction, and the decay."""
        moves = tuple(Move(k, -lr * c / len(g)) for k, c in enumerate(g))
        return {}, Update(moves, 1.0 - lr * self.weight_decay)


@dataclass(frozen=True)
class Momentum(Rule):
    """m <- beta m + mean_k(g_k z_k); theta <- (1 - lr wd) theta - lr m: heavy-ball momentum, decoupled decay."""

    beta: float = 0.9
    weight_decay: float = 0.0
    arrays = ("momentum",)

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the mean of the directions, and what is done with it."""

        import numpy as np  # listing methods needs none of it

        def step(tensor: Tensor, moves: Point, shrink: float) -> None:
            tensor.add("momentum", moves, self.beta)
            for part in tensor.parts():
                part["theta"] *= np.float32(shrink)
                part["theta"] -= np.float32(lr) * part["momentum"]

        return {}, Update(mean_moves(g), 1.0 - lr * self.weight_decay, step)


@dataclass(frozen=True)
class MovingAverage(Rule):
    """m <- beta m + (1 - beta) mean_k(g_k z_k); theta <- (1 - lr wd) theta - lr m: momentum of one step's length."""

    beta: float = 0.9
    weight_decay: float = 0.0
    arrays = ("momentum",)

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the mean of the directions, and what is done with it."""
        import numpy as np

        def step(tensor: Tensor, moves: Point, shrink: float) -> None:
            share = 1.0 - self.beta
            tensor.add("momentum", tuple(Move(probe, share * scale) for probe, scale in moves), self.beta)
            for part in tensor.parts():
                part["theta"] *= np.float32(shrink)
                part["theta"] -= np.float32(lr) * part["momentum"]

        return {}, Update(mean_moves(g), 1.0 - lr * self.weight_decay, step)


@dataclass(frozen=True)
class Adam(Rule):
    """Adam (arXiv 1412.6980, algorithm 1) on the estimate mean_k(g_k z_k), with decoupled weight decay.

    m <- b1 m + (1 - b1) e;  v <- b2 v + (1 - b2) e^2;  theta <- theta - lr m' / (sqrt(v') + tiny), m' and v' corrected
    for starting at 0. The estimate e has an array of its own, as all directions are added before it is squared.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    tiny: float = 1e-8
    weight_decay: float = 0.0
    arrays = ("estimate", "first_moment", "second_moment")

    def init(self) -> State:
        """Return b1^0 and b2^0."""
        return {"beta1_power": 1.0, "beta2_power": 1.0}

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the powers of both factors, the mean of the directions, and what is done with it."""
        import numpy as np

        # as products: pow differs between machines
        power1, power2 = state["beta1_power"] * self.beta1, state["beta2_power"] * self.beta2
        length, root = np.float32(lr / (1.0 - power1)), np.float32(1.0 / math.sqrt(1.0 - power2))
        b1, b2, one = np.float32(self.beta1), np.float32(self.beta2), np.float32(1.0)

        def step(tensor: Tensor, moves: Point, shrink: float) -> None:
            tensor.add("estimate", moves, 0.0)
            for part in tensor.parts():
                e, m, v = part["estimate"], part["first_moment"], part["second_moment"]
                m *= b1
                m += (one - b1) * e
                v *= b2
                v += (one - b2) * (e * e)
                part["theta"] *= np.float32(shrink)
                part["theta"] -= length * m / (np.sqrt(v) * root + np.float32(self.tiny))

        powers = {"beta1_power": power1, "beta2_power": power2}
        return powers, Update(mean_moves(g), 1.0 - lr * self.weight_decay, step)


def mean_moves(g: tuple[float, ...]) -> Point:
    """Return the moves that make mean_k(g_k z_k)."""
    return tuple(Move(k, c / len(g)) for k, c in enumerate(g))
