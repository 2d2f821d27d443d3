"""What the verbs of Python work on: a bundle or a run, opened already or as the path of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.files import as_path
from zoedge.manifest import MANIFEST_FILE

from .run_folder import CONFIG_FILE, Run

BundleLike = Bundle | Run | str | Path  # a run stands for the bundle that it tuned
RunLike = Run | str | Path
Source = Bundle | Run | str | Path


def open_bundle(source: BundleLike) -> Bundle:
    """Return a bundle; of a run, the one that it tuned.

    Raises:
        BundleError: there is no bundle, or it can't be used.
        InputError: it is no path.
    """
    return open_source(source)[0]


def open_run(source: Source) -> Run:
    """Return a run.

    Raises:
        BundleError: there is no run.
        InputError: it is a bundle, or no path.
    """
    if isinstance(source, Bundle):
        raise InputError(f"{source.folder} is a bundle: give the run that tuned it")
    return source if isinstance(source, Run) else Run.open(source)


def open_source(source: Source) -> tuple[Bundle, Run | None]:
    """Open whichever of the two is given: a bundle, or a run with the bundle that it tuned.

    Raises:
        BundleError: it is neither.
        InputError: it is no path.
    """
    if isinstance(source, Bundle):
        return source, None
    if isinstance(source, Run):
        return source.bundle(), source
    path = as_path(source, "a bundle or a run")
    if (path / CONFIG_FILE).is_file():
        run = Run.open(path)
        return run.bundle(), run
    if (path / MANIFEST_FILE).is_file():
        return Bundle.open(path), None
    what = "does not exist" if not path.exists() else f"has neither {MANIFEST_FILE} nor {CONFIG_FILE}"
    raise BundleError(f"{path} {what}: give a bundle (zoedge export) or a run (zoedge tune)")


def folder_of(place: Any, what: str) -> Path:
    """Return the folder of a bundle or a run, or a path as it is; ``what`` says what the path is for.

    Raises:
        InputError: it is no path.
    """
    return place.folder if isinstance(place, Bundle | Run) else as_path(place, what)
