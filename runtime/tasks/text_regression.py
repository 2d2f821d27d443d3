"""Regression on texts: a text or a pair of texts, and one number or several."""

from __future__ import annotations

from zoedge.bundle import Bundle

from ..data.example import Example
from ..data.record import Record
from . import fields
from .arrays import fitted
from .classification import placeholder
from .regression import Regression
from .text_classification import token_inputs
from .tokenizer import Side, TextTokenizer


class TextRegression(Regression):
    """Records with ``text``, or a pair such as ``sentence1`` and ``sentence2``, and ``label``, a number."""

    def __init__(self, bundle: Bundle, side: Side | None = None) -> None:
        super().__init__(bundle)
        self._tokenizer = TextTokenizer(bundle, side or "right")

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return input_ids, attention_mask and perhaps token_type_ids int64 [tokens], and labels float32 [outputs]."""
        settings = self._tokenizer.text
        encoded = self._tokenizer.encode(*fields.texts(record), settings.max_length)
        arrays = token_inputs(encoded, record.where, settings.token_types)
        inputs = {port.name: arrays[port.name] for port in self._manifest.inputs if port.name in arrays}
        (target,) = self._manifest.targets
        if labelled:
            known = fitted(fields.label(record), target, record.where)
        else:
            known = placeholder(target.shape, target.dtype)
        return Example(inputs, {target.name: known}, len(encoded.ids), encoded.cut)
