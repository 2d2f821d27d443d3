"""The yardstick: onnxruntime as its users run it, on the ordinary export, with default session options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from variants.shapes import Ids, load_batch

FORWARDS = 2  # of a step, one after the other as a two-point step has them


def feeds_for(session: Any, ids: Ids) -> dict[str, Ids]:
    """Return what the session's inputs are given for token ids without padding."""
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions.copy()}
    return {port.name: known[port.name] for port in session.get_inputs()}


class Stock:
    """Two forward passes, every position's logits computed and returned."""

    passes = f"{FORWARDS} forwards"

    def __init__(self, folder: Path, data: Path, options: Any = None) -> None:
        self._session = onnxruntime.InferenceSession(
            folder / "stock" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        ids, self._labels = load_batch(data)
        self._feeds = feeds_for(self._session, ids)

    def step(self) -> None:
        for _ in range(FORWARDS):
            self._session.run(["logits"], self._feeds)

    def loss(self) -> float:
        """Return the mean loss of the labels, a row and a few positions at a time to hold little memory."""
        logits = self._session.run(["logits"], self._feeds)[0]
        total, width = 0.0, self._labels.shape[1]
        for row, labels in zip(logits[:, -width:], self._labels, strict=True):
            for at in range(0, width, 8):
                some, wanted = row[at : at + 8].astype(np.float64), labels[at : at + 8]
                picked = np.take_along_axis(some, wanted[:, None], 1)
                total += float(np.log(np.exp(some - picked).sum(1)).sum())
        return total / self._labels.size
