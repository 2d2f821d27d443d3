"""A rule that divides by a diagonal curvature."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal

from .core import Move, Point, Rule, State, Tensor, Update
from .rules import mean_moves

_EXACT = Context(prec=28)  # of a library that rounds alike everywhere, unlike exp


@dataclass(frozen=True)
class ClippedCurvature(Rule):
    """HELENE's, as ``helene`` says; arrays m, h, and e, as all directions are added before it is squared."""

    beta1: float
    beta2: float
    anneal: float
    every: int
    scale: float
    floor: float
    weight_decay: float = 0.0
    tiny: float = 1e-8
    arrays = ("estimate", "momentum", "curvature")

    def init(self) -> State:
        """Return no step, and exp(0)."""
        return {"steps": 0.0, "annealing": 1.0}

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the next step, the mean of the directions, and what is done with it."""
        import numpy as np  # listing methods needs none of it

        alpha = self.beta1 + (1.0 - self.beta1) * state["annealing"]
        looks = state["steps"] % self.every == 0.0
        b2, one = np.float32(self.beta2), np.float32(1.0)

        def step(tensor: Tensor, moves: Point, shrink: float) -> None:
            tensor.add("momentum", tuple(Move(probe, alpha * scale) for probe, scale in moves), self.beta1)
            if looks:
                tensor.add("estimate", moves, 0.0)
            least = np.float32(self.floor * tensor.size)
            for part in tensor.parts():
                if looks:
                    part["curvature"] *= b2
                    part["curvature"] += (one - b2) * (part["estimate"] * part["estimate"])
                clipped = np.maximum(part["curvature"], least)
                part["theta"] *= np.float32(shrink)
                part["theta"] -= (
                    np.float32(lr)
                    * part["momentum"]
                    / (np.float32(self.scale) * clipped + np.float32(self.tiny))
                )

        decay = float(_EXACT.exp(_EXACT.divide(Decimal(-1), Decimal(self.anneal))))  # and powers as products
        after = {"steps": state["steps"] + 1.0, "annealing": state["annealing"] * decay}
        return after, Update(mean_moves(g), 1.0 - lr * self.weight_decay, step)
