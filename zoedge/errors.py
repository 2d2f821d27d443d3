"""The errors zoedge raises on purpose.

    ZoedgeError              exit code 1: the run failed
    ├── InputError           exit code 2: usage or bad input
    │   ├── BundleError      a bundle or run folder that can't be used
    │   └── DataError        a data file that can't be used
    ├── RefusedError         exit code 3: a preflight check said no
    └── MissingPackageError  exit code 2: an optional dependency isn't installed

Each message is one sentence that names the thing, the value and the remedy: the command line prints it
as it stands and leaves the traceback to ``--debug``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .installed import pip_line


class ZoedgeError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is the command line's."""

    exit_code = 1


class InputError(ZoedgeError):
    """Raised for usage or input that can't be used as given."""

    exit_code = 2


class BundleError(InputError):
    """Raised for a bundle or a run folder that is missing, corrupt or of another format."""


class DataError(InputError):
    """Raised for a data file that can't be read as records of the bundle's task."""


class RefusedError(ZoedgeError):
    """Raised when a preflight check refuses to start."""

    exit_code = 3


class MissingPackageError(InputError):
    """Raised where an optional package is needed and absent; names the exact pip line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: {pip_line(extra)}")


def near(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean a, b?" for the closest of ``known``, or "" when nothing is close."""
    close = near_names(name, known)
    return f"; did you mean {', '.join(close)}?" if close else ""


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the closest of ``known``, three at most."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return (
        close + [n for n in names if name and name.lower() in n.lower() and n not in close][: 3 - len(close)]
    )
