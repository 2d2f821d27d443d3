"""``merge`` and ``write_adapter`` as Python's users call them: of a run, or of a bundle and tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.files import as_path

from ..run.opened import RunLike, Source, open_bundle, open_run
from .adapter import write_adapter_files as adapter_of
from .merge import Tensors
from .merge import write_merged as merge_tensors


@overload
def merge(source: RunLike, output: str | Path, /, *, which: str | None = None) -> None: ...
@overload
def merge(source: RunLike, *, output: str | Path, which: str | None = None) -> None: ...
@overload
def merge(source: Source, tensors: Tensors, output: str | Path, *, columns: Sequence[str] = ()) -> None: ...
def merge(
    source: Source,
    tensors: Tensors | str | Path | None = None,
    output: str | Path | None = None,
    *,
    which: str | None = None,
    columns: Sequence[str] = (),
) -> None:
    """Write a plain ONNX folder: ``merge(run, output)``, or ``merge(bundle, tensors, output)``.

    Args:
        source: a run, or with ``tensors`` the bundle that was tuned; or the folder of one.
        tensors: the tuned values by parameter name, as ``Run.weights`` returns them; left out for a run's own.
        output: a folder that doesn't exist yet.
        which: "best" or "last" weights of a run; best by default where the run evaluated.
        columns: with ``tensors``: as ``outputs.merge.write_merged`` says; a run knows them.

    Raises:
        InputError: something given can't be used, or the tensors can't be merged; nothing was written.
    """
    tuned = _tuned(source, tensors, output, which)
    merge_tensors(tuned.bundle, tuned.tensors, tuned.output, columns=columns or tuned.columns)


@overload
def write_adapter(source: RunLike, output: str | Path, /, *, which: str | None = None) -> list[str]: ...
@overload
def write_adapter(source: RunLike, *, output: str | Path, which: str | None = None) -> list[str]: ...
@overload
def write_adapter(source: Source, tensors: Tensors, output: str | Path) -> list[str]: ...
def write_adapter(
    source: Source,
    tensors: Tensors | str | Path | None = None,
    output: str | Path | None = None,
    *,
    which: str | None = None,
) -> list[str]:
    """Write the tuned adapter: ``write_adapter(run, output)``, or ``write_adapter(bundle, tensors, output)``.

    The arguments are those of ``merge``; ``outputs.adapter.write_adapter_files`` says what ``output`` may be called.

    Returns:
        Names of tuned tensors that the form can't carry; merging keeps them all.

    Raises:
        InputError: something given can't be used, or there is no adapter to write; nothing was written.
    """
    tuned = _tuned(source, tensors, output, which)
    return adapter_of(tuned.bundle, tuned.tensors, tuned.output)


class _Tuned(NamedTuple):
    bundle: Bundle
    tensors: Tensors
    output: Path
    columns: tuple[str, ...] = ()


def _tuned(source: Source, tensors: object, output: object, which: str | None) -> _Tuned:
    if output is None and not isinstance(tensors, Mapping):
        tensors, output = None, tensors
    place = as_path(output, "the output")
    if tensors is None:
        run = open_run(source)
        return _Tuned(run.bundle(), run.weights(which), place, run.facts.columns)
    if not isinstance(tensors, Mapping):
        raise InputError(
            f"tensors are {tensors!r:.60}: give a dict of name -> array, as Run.weights returns it"
        )
    return _Tuned(open_bundle(source), tensors, place)
