"""Compiling with numba, kept in a folder for the next start where there is one to keep it in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function compiled at its first call, which holds no lock of the interpreter while it runs."""
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that numba could keep its cache in
        made = numba.njit(nogil=True)(function)
    return made  # type: ignore[no-any-return]


def digest(folder: Path) -> int:
    """Return a number that changes with the Python files of a folder.

    numba's cache knows a function by its own file and by the values that it closes over, but not by the files
    that it imports from: a closure over this number is compiled again when one of those changes.
    """
    files = sorted(folder.glob("*.py"))
    state = hashlib.blake2b(b"\0".join(file.read_bytes() for file in files), digest_size=7)
    return int.from_bytes(state.digest(), "little")
