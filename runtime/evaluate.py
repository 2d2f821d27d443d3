"""``zoedge eval`` and ``zoedge predict``: forward passes of the loss graph over any data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from zoedge.errors import DataError

from .data import KeyNames, KeyOptions, Record, Split, read
from .data.dataset import encode
from .generate import complete
from .loaded import Loaded
from .losses.measure import run_rows, score
from .tasks.columns import by_name, columns_of
from .tasks.text_generation import TextGeneration

Say = Callable[[str], None]

_PREDICT_BLOCK = 1024  # rows encoded, run and yielded at a time


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    split: Split = "test",
    which: str | None = None,
    threads: int = 0,
    provider: str = "cpu",
    say: Say = lambda text: None,
    **keys: Unpack[KeyOptions],
) -> dict[str, float]:
    """Return ``examples``, ``loss`` and the task's metrics of a bundle or a run on a split.

    Args:
        path: a bundle's or a run's folder.
        data: a data file, a folder of splits, or a hub id.
        split: which rows.
        which: "best" or "last" weights of a run; best by default where the run evaluated.
        threads: of the forward passes; 0: one per core.
        provider: execution provider.
        say: is told what the user should know about the data.
        keys: ``text_key``, ``label_key``, ...: what the data calls its fields; a run knows those it was
            tuned with.

    Raises:
        InputError: the folder or the data can't be used.
    """
    loaded = Loaded.open(path, which=which, threads=threads, provider=provider)
    rows = _rows(data, split, loaded, loaded.keys.overridden(keys), say)
    examples = encode(rows, loaded.task).examples
    return {"examples": len(examples), **score(loaded.engine, loaded.bundle.manifest, examples)}


def predict(
    path: str | Path,
    *,
    texts: Sequence[str] = (),
    data: str | Path | None = None,
    split: Split = "test",
    which: str | None = None,
    max_new_tokens: int = 32,
    threads: int = 0,
    provider: str = "cpu",
    say: Say = lambda text: None,
    **keys: Unpack[KeyOptions],
) -> Iterator[dict[str, Any]]:
    """Yield a prediction per text or per row of data, in order; labels aren't needed.

    The arguments are those of ``evaluate``, and ``texts`` may take the place of ``data``.
    A text-generation bundle continues each text greedily by ``max_new_tokens`` tokens at most.
    """
    loaded = Loaded.open(path, which=which, threads=threads, provider=provider)
    rows: Sequence[Record] = [Record({"text": text}, f"text {i + 1}") for i, text in enumerate(texts)]
    if data is not None:
        rows = _rows(data, split, loaded, loaded.keys.overridden(keys), say, labelled=False)
    for start in range(0, len(rows), _PREDICT_BLOCK):
        yield from _predictions(loaded, rows[start : start + _PREDICT_BLOCK], max_new_tokens)


def _rows(
    data: str | Path, split: Split, loaded: Loaded, keys: KeyNames, say: Say, *, labelled: bool = True
) -> Sequence[Record]:
    rows = read(str(data), split, keys, labelled=labelled)
    if rows is None:
        raise DataError(f"{data} has no {split} split: choose another --split")
    manifest = loaded.bundle.manifest
    columns = columns_of(rows, manifest, loaded.columns)
    if columns.features and (columns.ignored or columns.positions or not loaded.columns):
        say(f"columns: {columns.told(keys.label)}")
    return by_name(rows, columns, manifest)


def _predictions(loaded: Loaded, rows: Sequence[Record], max_new_tokens: int) -> list[dict[str, Any]]:
    examples = [loaded.task.encode(row, labelled=False) for row in rows]
    if isinstance(loaded.task, TextGeneration):
        found_ids = complete(loaded.engine, loaded.bundle.manifest, examples, max_new_tokens)
        return [{"text": loaded.task.decode(np.array(ids, np.int64))} for ids in found_ids]
    found: dict[int, dict[str, Any]] = {}
    for batch, outputs in run_rows(
        loaded.engine, loaded.bundle.manifest, examples, np.arange(len(examples)), None
    ):
        for position, row in enumerate(batch.rows):
            own = {name: array[position] for name, array in outputs.items()}
            found[int(row)] = loaded.task.prediction(examples[int(row)], own)
    return [found[row] for row in range(len(examples))]
