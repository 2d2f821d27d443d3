"""Which implementation of the noise specification runs here: numba where it is, the reference elsewhere."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Protocol

from . import reference
from .reference import Addition, Float32


class AddTerms(Protocol):
    """The one operation on buffers: see ``reference.add_terms``."""

    def __call__(self, additions: Sequence[Addition[Float32]]) -> None:
        """Make the additions, in place."""


# one term, one thread (benchmarks/README.md); the compiled one uses every core besides
REFERENCE_COST = (
    "noise runs on the NumPy reference, 8 times slower than with numba or more: pip install numba"
)


def add_terms_here(threads: int = 0) -> tuple[AddTerms, str | None]:
    """Return the fastest implementation that can run, and a sentence when that isn't the compiled one.

    Args:
        threads: how many the compiled one uses at most; 0 for one per usable core.
    """
    if importlib.util.find_spec("numba") is None:
        return reference.add_terms, REFERENCE_COST
    from . import numba_kernel

    return functools.partial(numba_kernel.add_terms, threads=threads), None
