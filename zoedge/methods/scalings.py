"""Scalings: what happens to the coefficients between the estimate and the update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .core import State


@dataclass(frozen=True)
class SecondMoment:
    """Divide by the root of one scalar second moment (MEAZO), bias-corrected as Adam does.

    v <- beta v + (1 - beta) mean(g^2);   g <- g / (sqrt(v / (1 - beta^t)) + tiny)
    """

    beta: float = 0.99
    tiny: float = 1e-12

    def init(self) -> State:
        """Return v = 0 and beta^0 = 1."""
        return {"second_moment": 0.0, "second_moment_bias": 1.0}

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return the updated moment and the normalised coefficients."""
        mean_square = math.fsum(c * c for c in g) / len(g)
        v = self.beta * state["second_moment"] + (1.0 - self.beta) * mean_square
        bias = state["second_moment_bias"] * self.beta  # beta^t as a product: pow differs between machines
        root = math.sqrt(v / (1.0 - bias)) + self.tiny
        return {"second_moment": v, "second_moment_bias": bias}, tuple(c / root for c in g)


@dataclass(frozen=True)
class Spread:
    """Divide by the standard deviation over the step's directions (FZOO, arXiv 2506.09034, eq. 4).

    The deviation estimates the gradient's norm, so the step length no longer depends on the loss's scale.
    Losses that don't differ at all carry no direction: the coefficients become 0.
    """

    def init(self) -> State:
        """Return no state."""
        return {}

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return the coefficients over their (biased) standard deviation."""
        mean = math.fsum(g) / len(g)
        sigma = math.sqrt(math.fsum((c - mean) * (c - mean) for c in g) / len(g))
        return {}, tuple(c / sigma if sigma > 0.0 else 0.0 for c in g)


@dataclass(frozen=True)
class Sign:
    """Keep the signs alone: every direction moves by the same length, whatever the loss's scale."""

    def init(self) -> State:
        """Return no state."""
        return {}

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return -1, 0 or 1 for each coefficient."""
        return {}, tuple(math.copysign(1.0, c) if c else 0.0 for c in g)


@dataclass(frozen=True)
class StepCount:
    """Count the steps that were taken, for what changes with them, and leave the coefficients as they are."""

    def init(self) -> State:
        """Return 0 steps."""
        return {"steps": 0.0}

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return one more."""
        return {"steps": state["steps"] + 1.0}, g
