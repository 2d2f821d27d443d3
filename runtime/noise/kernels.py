"""Which implementation of the noise specification runs here: numba where it is, the reference elsewhere."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from . import reference
from .reference import Addition, Float32
from .sweep import Sweep


class AddTerms(Protocol):
    """The one operation on buffers: see ``reference.add_terms``."""

    def __call__(self, additions: Sequence[Addition[Float32]]) -> None:
        """Make the additions, in place."""


# one term, one thread (benchmarks/README.md); the compiled one uses every core besides
REFERENCE_COST = (
    "noise runs on the NumPy reference, 8 times slower than with numba or more: pip install numba"
)


class SweepFamilies(Protocol):
    """The same for families of buffers: see ``sweep.Sweep``."""

    def __call__(self, sweeps: Sequence[Sweep[Float32]]) -> None:
        """Make the sweeps."""


class Kernels(NamedTuple):
    """An implementation.

    Attributes:
        add_terms: makes additions.
        sweep: makes sweeps.
        note: a sentence when it isn't the compiled one.
    """

    add_terms: AddTerms
    sweep: SweepFamilies
    note: str | None


def kernels_here(threads: int = 0) -> Kernels:
    """Return the fastest implementation that can run.

    Args:
        threads: how many the compiled one uses at most; 0 for one per usable core.
    """
    if importlib.util.find_spec("numba") is None:
        return Kernels(reference.add_terms, _expanded, REFERENCE_COST)
    from . import numba_kernel

    add_terms = functools.partial(numba_kernel.add_terms, threads=threads)
    return Kernels(add_terms, numba_kernel.Sweeper(threads), None)


def _expanded(sweeps: Sequence[Sweep[Float32]]) -> None:
    reference.add_terms([addition for sweep in sweeps for addition in sweep.additions()])
