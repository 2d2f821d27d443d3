"""Learning-rate schedules: a factor from the progress of the run."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def factor(name: str, progress: float) -> float:
    """Return the factor of a schedule at ``progress`` in [0, 1] of the run."""
    return SCHEDULES[name](min(max(progress, 0.0), 1.0))
