"""Text classification with a head: a text or a pair of texts, and one label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import DataError

from ..data.example import Array, Arrays, Example
from ..data.record import Record
from . import fields
from .labels import Labels
from .tokenizer import Encoded, Side, TextTokenizer


class TextClassification:
    """Records with ``text``, or a pair such as ``sentence1`` and ``sentence2``, and ``label``.

    Texts are tokenized as transformers does; of pairs that are too long, the longer text is cut first.

    Args:
        bundle: the bundle.
        side: the end that texts lose which are too long.
    """

    def __init__(self, bundle: Bundle, side: Side | None = None) -> None:
        self._tokenizer = TextTokenizer(bundle, side or "right")
        self._labels = Labels(bundle.manifest)
        self._ports = frozenset(port.name for port in bundle.manifest.inputs)

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return input_ids, attention_mask and perhaps token_type_ids int64 [tokens], and labels int64 []."""
        settings = self._tokenizer.text
        encoded = self._tokenizer.encode(*fields.texts(record), settings.max_length)
        label = self._labels.index(fields.label(record), record.where) if labelled else 0
        inputs = token_inputs(encoded, record.where, settings.token_types)
        wanted = {name: array for name, array in inputs.items() if name in self._ports}
        return Example(wanted, {"labels": np.array(label, np.int64)}, len(encoded.ids), encoded.cut)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``label`` and ``score``, its probability."""
        return self._labels.best(outputs["logits"])


def token_inputs(encoded: Encoded, where: str, token_types: bool = False) -> Arrays:
    """Return the graph inputs of a tokenized text, int64 [tokens] each.

    Raises:
        DataError: it has no tokens.
    """
    if not encoded.ids:
        raise DataError(f"{where} has an empty text, which gives no tokens: remove the row")
    ids = np.array(encoded.ids, np.int64)
    types = np.array(encoded.type_ids, np.int64) if token_types else np.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
