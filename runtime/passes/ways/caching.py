"""Whether a run gains from keeping what the first part of its graph makes of each row: measured at the start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zoedge.bundle import Bundle
from zoedge.manifest import PREFIX_FILE
from zoedge.options import parse_size

from ...data.batches import MicroBatch
from ...data.example import Arrays
from ...machine.timing import best_seconds
from ..prefix_cache import PrefixCache
from ..row_store import RowStore
from ..staged import Staged

LEAST_EPOCHS = 1.5  # with fewer, most rows are never met again
AUTO_BYTES = 1 << 30
_AUTO_SHARE = 4  # at most a quarter of the free disk
_IN_MEMORY = ("tmpfs", "ramfs")
# one scale for all rows of a pass, and shapes inside that follow from values: what tests of shapes can't vouch for
_UNFIT = {
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
        "rounds all rows of a pass by one scale",
    ),
    **dict.fromkeys(
        ("NonZero", "Compress", "Unique", "NonMaxSuppression", "If", "Loop"),
        "makes shapes that follow from values",
    ),
}
_WHAT = "what the layers before the first trained one make of a row is not kept across epochs"


@dataclass(frozen=True)
class Recurring:
    """How a run meets its rows again.

    Attributes:
        folder: where they may be kept.
        asked: how much, as ``--prefix-cache`` says it.
        rows: of the training data.
        epochs: how often each is used.
        most_rows: of a pass; None for no limit.
        fixed_rows: of every pass, where the graph has one batch size.
    """

    folder: Path
    asked: str
    rows: int
    epochs: float
    most_rows: int | None = None
    fixed_rows: int | None = None


class Tried(NamedTuple):
    """A cache, the seconds of a step that it will save on average, and a sentence where there is one to say."""

    cache: PrefixCache | None = None
    saving: float = 0.0
    note: str | None = None

    def close(self) -> None:
        """Give back the cache's disk."""
        if self.cache is not None:
            self.cache.close()


def try_cache(
    bundle: Bundle, recurring: Recurring | None, batch: Sequence[MicroBatch], opened: Callable[[], Staged]
) -> Tried:
    """Return a cache that is worth having, with the batch's rows in it, or why there is none.

    Args:
        bundle: what is tuned.
        recurring: how rows recur; None where nothing may be kept.
        batch: the passes of one step.
        opened: opens the two parts of the graph.
    """
    most = most_bytes(recurring.folder, recurring.asked) if recurring is not None else 0
    if recurring is None or most == 0 or PREFIX_FILE not in bundle.manifest.files:
        return Tried()
    if recurring.epochs < LEAST_EPOCHS:
        few = f"--prefix-cache has no effect here: {recurring.epochs:.2g} epochs meet few rows twice"
        return Tried(note=None if recurring.asked == "auto" else few)
    if (reason := unfit(bundle.path(PREFIX_FILE))) is not None:
        return Tried(note=f"{_WHAT}: {reason}")
    try:
        store = RowStore(recurring.folder, most)
    except OSError as error:
        return Tried(note=f"{_WHAT}: {recurring.folder} can't hold it ({error.strerror})")
    copies = recurring.fixed_rows or min(2, recurring.most_rows or 2)
    cache = PrefixCache(store, copies=copies, fixed=recurring.fixed_rows is not None)
    tried = _measured(cache, recurring, most, batch, opened())
    if tried.cache is None:
        cache.close()
    return tried


def _measured(
    cache: PrefixCache, recurring: Recurring, most: int, batch: Sequence[MicroBatch], staged: Staged
) -> Tried:
    passes: list[Arrays] = [b.given for b in batch]
    alone = {name: array[: recurring.fixed_rows or 1] for name, array in passes[0].items()}
    computing = best_seconds(lambda: [staged.begin(x) for x in passes])
    wanted = _bits(staged, [*passes, alone])
    staged.cache = cache
    same = all(_bits(staged, [*passes, alone]) == wanted for _ in ("computed", "read"))
    if (news := cache.news()) is not None:
        return Tried(note=news)
    if not same or not cache.useful:
        return Tried(note=f"{_WHAT}: it depends on the rows beside it")
    reading = best_seconds(lambda: [staged.begin(x) for x in passes])
    held = min(1.0, most / (recurring.rows * max(1.0, cache.entry_bytes)))
    saving = held * (1.0 - 1.0 / recurring.epochs) * (computing - reading)
    note = f"the layers before the first trained one are computed once per row and kept on disk (up to {_said(most)})"
    return Tried(cache, saving, note) if saving > 0.0 else Tried()


def most_bytes(folder: Path, asked: str) -> int:
    """Return how many bytes may be kept in a folder; 0 for none.

    Raises:
        InputError: ``asked`` is no size.
    """
    asked_for = parse_size(asked)
    if asked_for is not None:
        return asked_for
    return 0 if in_memory(folder) else min(AUTO_BYTES, shutil.disk_usage(folder).free // _AUTO_SHARE)


def in_memory(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether a folder's files lie in memory; False where the system doesn't say."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines() if mounts.is_file() else []:
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0] in _IN_MEMORY
    return False


def unfit(graph: Path) -> str | None:
    """Return why rows of a graph's results can't be kept, going by its operators; None where they can.

    An operator is found by the bytes that an ONNX file names it with (field 4 of a node), as nothing here reads
    ONNX; the same bytes elsewhere would only cost the cache.
    """
    content = graph.read_bytes()
    for name, why in _UNFIT.items():
        if b"\x22" + bytes([len(name)]) + name.encode() in content:
            return f"{name} {why}"
    return None


def _bits(staged: Staged, passes: Sequence[Arrays]) -> list[bytes]:
    return [array.tobytes() for x in passes for _, array in sorted(staged.crossing(x).items())]


def _said(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
