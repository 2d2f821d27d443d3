"""Files and folders that appear under their final name only when they are whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

_CHUNK_BYTES = 1 << 22


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def as_path(value: object, what: str) -> Path:
    """Return a path that was given as text or as a path; ``what`` says what it should lead to.

    Raises:
        InputError: it is neither, it is empty, or no system could have such a path.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{value!r:.60} is no path: give {what} as text or as a Path")
    try:
        os.stat(text)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{text!r:.60} can't be used as a path ({reason}): give {what}") from error
    return Path(text)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it into place on success, remove it on failure.

    The rename replaces an older file at once, so a reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_new_folder(path: Path) -> None:
    """Check that ``new_folder`` may write there, before long work.

    Raises:
        InputError: ``path`` exists and isn't an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} exists already: choose another output folder or remove it first")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside ``path`` to fill; rename it into place on success, remove it on failure.

    Raises:
        InputError: ``path`` exists and isn't an empty folder.
    """
    check_new_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's 0700 is for secrets
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets
    with path.open("rb") as file:
        os.fsync(file.fileno())
