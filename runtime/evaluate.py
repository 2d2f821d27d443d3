"""``zoedge eval`` and ``zoedge predict``: forward passes of the loss graph over any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from zoedge.errors import DataError, InputError, near

from .data import Data, InMemory, KeyNames, KeyOptions, Record, Split, as_data, read
from .data.dataset import encode_rows
from .data.example import Example
from .data.keys import named
from .data.remarks import Altered, remarks
from .data.splits import SPLIT_NAMES
from .generate import complete
from .loaded import Loaded
from .losses.metrics import f1_meaning
from .measuring.measure import run_rows, score
from .run.opened import Source
from .tasks.columns import by_name, columns_of
from .tasks.plain import plain_record
from .tasks.text_generation import TextGeneration
from .tasks.tokenizer import Side

Say = Callable[[str], None]
Text = str | Path  # a path is that of an image

_PREDICT_BLOCK = 1024  # rows encoded, run and yielded at a time


def evaluate(
    path: Source,
    data: Data | InMemory,
    *,
    split: Split = "test",
    which: str | None = None,
    threads: int = 0,
    provider: str = "cpu",
    precision: str = "auto",
    truncation_side: Side | None = None,
    say: Say = lambda text: None,
    **keys: Unpack[KeyOptions],
) -> dict[str, float]:
    """Return ``examples``, ``loss`` and the task's metrics of a bundle or a run on a split.

    Args:
        path: a bundle or a run, or the folder of one.
        data: a data file, a folder of splits, or a hub id; or rows in memory, as for ``tune``.
        split: which rows.
        which: "best" or "last" weights of a run; best by default where the run evaluated.
        threads: of the forward passes; 0: one per core.
        provider: execution provider.
        precision: in which its passes compute.
        truncation_side: the end that texts lose which are longer than the bundle takes; a run knows which.
        say: is told what the user should know about the data.
        keys: ``text_key``, ``label_key``, ...: what the data calls its fields; a run knows those it was
            tuned with.

    Raises:
        InputError: the folder or the data can't be used.
    """
    loaded = Loaded.open(
        path,
        which=which,
        threads=threads,
        provider=provider,
        precision=precision,
        truncation_side=truncation_side,
    )
    rows = _rows(data, split, loaded, loaded.keys.overridden(keys), say)
    encoded = encode_rows(rows, loaded.task)
    if loaded.untaught:
        say(loaded.untaught)
    for sentence in remarks(Altered.of(encoded), loaded.bundle.manifest, loaded.truncation_side):
        say(sentence)
    examples = encoded.examples
    metrics = score(loaded.engine, loaded.bundle.manifest, examples)
    if "f1" in metrics and (meaning := f1_meaning(loaded.bundle.manifest)):
        say(meaning)
    return {"examples": len(examples), **metrics}


def predict(
    path: Source,
    texts: Text | Sequence[Text] = (),
    *,
    data: Data | InMemory | None = None,
    split: Split = "test",
    which: str | None = None,
    max_new_tokens: int = 32,
    threads: int = 0,
    provider: str = "cpu",
    precision: str = "auto",
    truncation_side: Side | None = None,
    say: Say = lambda text: None,
    **keys: Unpack[KeyOptions],
) -> Iterator[dict[str, Any]]:
    """Yield a prediction per text or per row of data, in order; labels aren't needed.

    The arguments are those of ``evaluate``, and ``texts`` may take the place of ``data``: a text or a list of texts,
    each asked in the shape of the rows that a run was tuned on (as an instruction, a chat's turn, in the template);
    for models of images, paths of image files.
    A text-generation bundle continues each text greedily by ``max_new_tokens`` tokens at most.
    """
    asked = _listed(texts)
    if bool(asked) == (data is not None):
        raise InputError('give either texts or data: predict(run, "a text") or predict(run, data="rows.csv")')
    loaded = Loaded.open(
        path,
        which=which,
        threads=threads,
        provider=provider,
        precision=precision,
        truncation_side=truncation_side,
    )
    rows: Sequence[Record] = [
        plain_record(text, f"text {i + 1}", loaded.bundle.manifest, loaded.shape)
        for i, text in enumerate(asked)
    ]
    if data is not None:
        rows = _rows(data, split, loaded, loaded.keys.overridden(keys), say, labelled=False)
    if loaded.untaught:
        say(loaded.untaught)
    altered = Altered()
    for start in range(0, len(rows), _PREDICT_BLOCK):
        encoded = encode_rows(rows[start : start + _PREDICT_BLOCK], loaded.task, labelled=False)
        altered += Altered.of(encoded)
        yield from _predictions(loaded, encoded.examples, max_new_tokens)
    for sentence in remarks(altered, loaded.bundle.manifest, loaded.truncation_side):
        say(sentence)


def _listed(texts: object) -> list[Any]:
    """Return texts as a list; a table or a dict, which iterates over its names, is no list of texts."""
    if isinstance(texts, str | Path):
        return [texts]
    table = isinstance(texts, Mapping | bytes) or getattr(texts, "ndim", 1) != 1
    if table or not isinstance(texts, Iterable):
        raise InputError(
            f"texts are a {type(texts).__name__}: give a text, a list of texts, or rows with data="
        )
    return list(texts)


def _rows(
    data: Data | InMemory, split: Split, loaded: Loaded, keys: KeyNames, say: Say, *, labelled: bool = True
) -> Sequence[Record]:
    data = as_data(data)
    if split not in SPLIT_NAMES:
        raise InputError(
            f"split is {split!r} and must be {' or '.join(SPLIT_NAMES)}{near(split, SPLIT_NAMES)}"
        )
    read_rows = read(data, split)
    if read_rows is None:
        raise DataError(f"{data} has no {split} split: choose another --split")
    manifest = loaded.bundle.manifest
    rows, headed = named(read_rows, keys, loaded.header, loaded.columns, labelled=labelled)
    columns = columns_of(rows, manifest, loaded.columns, loaded.header)
    if headed:
        columns = replace(columns, positions=True)
    if columns.features and (columns.ignored or columns.positions or not loaded.columns):
        say(f"columns: {columns.told(keys.label)}")
    return by_name(rows, columns, manifest)


def _predictions(loaded: Loaded, examples: Sequence[Example], max_new_tokens: int) -> list[dict[str, Any]]:
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
