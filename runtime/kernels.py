"""Which implementation of the noise specification runs here: numba where it is, the reference elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Protocol

from . import noise
from .noise import Float32, Term


class AddTerms(Protocol):
    """The one operation on a buffer: see ``noise.add_terms``."""

    def __call__(self, target: Float32, terms: Sequence[Term], shrink: float = 1.0) -> None:
        """Shrink, then add the terms, in place."""


# one term over 32M float32, one and two threads (benchmarks/README.md)
REFERENCE_COST = "noise runs on the NumPy reference, 3 to 7 times slower than with numba: pip install numba"


def add_terms_here() -> tuple[AddTerms, str | None]:
    """Return the fastest implementation that can run, and a sentence when that isn't the compiled one."""
    if importlib.util.find_spec("numba") is None:
        return noise.add_terms, REFERENCE_COST
    from . import noise_numba

    return noise_numba.add_terms, None
