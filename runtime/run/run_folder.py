"""The folder of a run: its files, its lock, and the weights it ends with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from zoedge import options as tune_options
from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError, near
from zoedge.files import as_path, new_file
from zoedge.options import TuneOptions
from zoedge.tensor_file import map_tensors

from ..data.facts import Facts
from .journal import JOURNAL_FILE

CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"
SNAPSHOT_FILE = "snapshot.safetensors"
TENSORS_FILE = "tensors.safetensors"  # in best/ and last/: the trainable tensors under their own names
WEIGHTS = ("best", "last")
_LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Run:
    """A folder that ``zoedge tune`` wrote: which bundle it tuned, how, and what came out."""

    folder: Path
    bundle_folder: Path
    data: str
    options: TuneOptions
    facts: Facts = field(default_factory=Facts)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a run folder.

        Raises:
            BundleError: it isn't one, or its configuration can't be read.
        """
        folder = as_path(folder, "a run's folder")
        path = folder / CONFIG_FILE
        if not path.is_file():
            raise BundleError(
                f"{folder} is not a run folder: it has no {CONFIG_FILE} (zoedge tune BUNDLE -o RUN makes one)"
            )
        try:
            config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
            where = str(config["bundle"]), str(config["data"])
            facts = msgspec.convert(config.get("facts", {}), Facts)
            return cls(
                folder, Path(where[0]), where[1], tune_options.make(config["options"], str(path)), facts
            )
        except (yaml.YAMLError, msgspec.ValidationError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is damaged: restore it or start a new run") from error

    @staticmethod
    def check_new(folder: Path) -> None:
        """Check that a locked folder without a journal holds nothing of the user's.

        Raises:
            InputError: it does.
        """
        # a run that was killed before its journal began left no more than its configuration
        if any(p.name != CONFIG_FILE and not p.name.startswith(".") for p in folder.iterdir()):
            raise InputError(f"{folder} exists and is not an empty folder: choose another -o")

    @classmethod
    def create(cls, folder: Path, bundle: Path, data: str, options: TuneOptions, facts: Facts) -> Run:
        """Write the configuration of a new run into its locked folder, with what it found out about its data."""
        if Path(data).exists():
            data = str(Path(data).resolve())
        config = {
            "bundle": str(bundle.resolve()),
            "data": data,
            "options": tune_options.flat(options),
            "facts": msgspec.json.decode(msgspec.json.encode(facts)),
        }
        with new_file(folder / CONFIG_FILE) as path:
            path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return cls(folder, bundle, data, options, facts)

    def bundle(self, *, verify: bool = True) -> Bundle:
        """Open the bundle that was tuned."""
        if not self.bundle_folder.is_dir():
            raise BundleError(
                f"{self.folder} was tuned from {self.bundle_folder}, which is gone: "
                f"put the bundle back or correct 'bundle' in {self.folder / CONFIG_FILE}"
            )
        return Bundle.open(self.bundle_folder, verify=verify)

    @property
    def journal(self) -> Path:
        """The journal's path."""
        return self.folder / JOURNAL_FILE

    @property
    def snapshot(self) -> Path:
        """The path of the snapshot that bounds the time of a resume."""
        return self.folder / "last" / SNAPSHOT_FILE

    def weights(self, which: str | None = None) -> dict[str, NDArray[np.generic]]:
        """Return the tuned tensors: ``best`` where the run evaluated, else ``last``, or the one named.

        Raises:
            BundleError: there are none yet.
            InputError: ``which`` is neither.
        """
        if which is not None and which not in WEIGHTS:
            raise InputError(f"which is {which!r} and must be {' or '.join(WEIGHTS)}{near(which, WEIGHTS)}")
        for name in (which,) if which else WEIGHTS:
            path = self.folder / name / TENSORS_FILE
            if path.is_file():
                return map_tensors(path)
        wanted = which or "tuned"
        raise BundleError(
            f"{self.folder} has no {wanted} weights yet: finish it with zoedge tune --resume, "
            f"or rebuild them with zoedge replay"
        )

    def save_weights(self, which: str, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        """Write ``best`` or ``last`` at once."""
        save_tensors(self.folder / which / TENSORS_FILE, tensors)


def save_tensors(
    path: Path, tensors: Mapping[str, NDArray[np.generic]], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file under its final name only when it is whole."""
    with new_file(path) as temporary:
        arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        save_file(arrays, temporary, metadata)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that one process at a time works on a run.

    Raises:
        InputError: another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another -o")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made ({error.strerror}): choose another -o") from error
    path = folder / _LOCK_FILE
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder} is being tuned by another process: wait for it or choose another -o"
            ) from error
        try:
            yield
        finally:
            _tidy(folder, made)
    finally:
        os.close(handle)


def _tidy(folder: Path, made: bool) -> None:
    """Leave no trace where no run came to be."""
    if (folder / JOURNAL_FILE).exists():
        return
    (folder / _LOCK_FILE).unlink(missing_ok=True)
    if made and not any(folder.iterdir()):
        folder.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writes left in a locked run folder."""
    for place in (folder, *(folder / name for name in WEIGHTS)):
        for path in place.glob(".*") if place.is_dir() else ():
            # .nfs: what a network file system makes of an unlinked file that is still open
            if path.name != _LOCK_FILE and not path.name.startswith(".nfs") and path.is_file():
                path.unlink()


class Log:
    """``log.jsonl``: one JSON object per line, flushed as written.

    Args:
        path: the file; what it holds stays, but for rows of steps that a resume takes again.
        keep_before: the step at which a resume begins.

    Attributes:
        elapsed_seconds: what the run had taken by then.
    """

    def __init__(self, path: Path, keep_before: int) -> None:
        kept = [(line, row) for line, row in _rows(path) if row.get("step", 0) <= keep_before]
        self.elapsed_seconds = max((float(row.get("elapsed_seconds", 0.0)) for _, row in kept), default=0.0)
        with new_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line, _ in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a log, and what they say."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            yield line, json.loads(line)
        except ValueError:
            continue  # torn by a crash
