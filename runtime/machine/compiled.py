"""Compiling with numba, kept in a folder for the next start where there is one to keep it in."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function compiled at its first call, which holds no lock of the interpreter while it runs."""
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that numba could keep its cache in
        made = numba.njit(nogil=True)(function)
    return made  # type: ignore[no-any-return]
