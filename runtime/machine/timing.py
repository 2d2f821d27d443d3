"""How long an action takes here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_REPEATS = 4  # the first one warms up
_SECONDS = 2.0  # after which no further one begins


def best_seconds(action: Callable[[], object]) -> float:
    """Return the seconds of an action, the best of a few."""
    best, spent = math.inf, 0.0
    for _ in range(_REPEATS):
        started = time.perf_counter()
        action()
        needed = time.perf_counter() - started
        best, spent = min(best, needed), spent + needed
        if spent > _SECONDS:
            break
    return best
