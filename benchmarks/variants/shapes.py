"""Shapes of a batch, and the tokens in it: the same for every variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOS, PAD, EOS, FIRST_WORD, WORDS = 2, 1, 2, 4, 1000
LABELS = 8  # label positions of "last8"
LABELLED = ("last8", "all")
ROWS = 64  # rows of the data file, as many as LoRA branches look at before the first step

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """Rows and tokens of a forward pass, and which positions have labels."""

    batch: int
    tokens: int
    labelled: str = "last8"

    @property
    def name(self) -> str:
        return f"B{self.batch} T{self.tokens}"

    @property
    def labels(self) -> int:
        """How many positions at the end of a row have labels."""
        return min(LABELS, self.tokens - 1) if self.labelled == "last8" else self.tokens

    @classmethod
    def parse(cls, text: str, labelled: str) -> Shape:
        """Read "8x64"."""
        batch, tokens = text.lower().split("x")
        return cls(int(batch), int(tokens), labelled)


def make_data(shape: Shape, folder: Path) -> None:
    """Write rows.jsonl for `zoedge tune` and batch.npz, the same rows of step 0 as arrays.

    A row of T tokens is the token that begins every text and T - 1 words; what it learns are the words at
    the end and the end token.
    """
    from zoedge.runtime.data.batches import batch_indices

    rows = max(ROWS, shape.batch)
    words = np.random.default_rng(0).integers(0, WORDS, (rows, shape.tokens - 1))
    cut = (
        shape.tokens - shape.labels
    )  # words before the first label; the prompt is empty with labels everywhere
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in words:
            prompt, completion = (" ".join(f"w{n}" for n in part) for part in (row[:cut], row[cut:]))
            if prompt:
                file.write(json.dumps({"prompt": prompt, "completion": f" {completion}"}) + "\n")
            else:
                file.write(json.dumps({"text": completion}) + "\n")
    ids = np.full((rows, shape.tokens + 1), BOS, np.int64)
    ids[:, 1:-1], ids[:, -1] = words + FIRST_WORD, EOS
    ids = ids[batch_indices(0, 0, rows, shape.batch)]
    np.savez(folder / "batch.npz", ids=ids[:, :-1], labels=ids[:, -shape.labels :])


def load_batch(folder: Path) -> tuple[Ids, Ids]:
    """Return input_ids [batch, tokens] and the labels [batch, labels] of the last positions."""
    with np.load(folder / "batch.npz") as arrays:
        return arrays["ids"], arrays["labels"]
