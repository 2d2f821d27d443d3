"""Rules: from rescaled coefficients to an update."""

from __future__ import annotations

from dataclasses import dataclass

from .core import Move, Rule, State, Update


@dataclass(frozen=True)
class Sgd(Rule):
    """theta <- (1 - lr wd) theta - lr mean_k(g_k z_k): stochastic gradient descent with decoupled weight decay."""

    weight_decay: float = 0.0

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the moves, one per direction, and the decay."""
        moves = tuple(Move(k, -lr * c / len(g)) for k, c in enumerate(g))
        return {}, Update(moves, 1.0 - lr * self.weight_decay)
