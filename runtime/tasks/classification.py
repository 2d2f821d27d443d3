"""Classification by any graph: inputs as arrays or columns, one class or several yes-or-no labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import DataError

from ..data.example import Array, Example
from ..data.record import Record
from . import fields
from .arrays import fitted, inputs_of, label_keys
from .labels import Labels


class Classification:
    """Records with the graph's inputs and ``label``: a name, an index, or a list of 0 and 1."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest
        self._labels = Labels(bundle.manifest)
        self._many = bundle.manifest.loss == "bce-with-logits"

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return the graph's inputs, and labels int64 [] or float32 [labels]."""
        ports = self._manifest.inputs
        inputs = inputs_of(record, ports)
        (target,) = self._manifest.targets
        if not labelled:
            return Example(inputs, {target.name: placeholder(target.shape, target.dtype)})
        label = fields.label(record, label_keys(ports))
        if self._many:
            return Example(inputs, {target.name: _shares(fitted(label, target, record.where), label, record)})
        return Example(inputs, {target.name: np.array(self._labels.index(label, record.where), np.int64)})

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``label`` and ``score``, or of several labels those that apply and all ``scores``."""
        logits = outputs["logits"]
        if not self._many:
            return self._labels.best(logits)
        flat = logits.astype(np.float64).reshape(-1)
        scores = np.exp(-np.logaddexp(0.0, -flat))  # sigmoid without overflow
        chosen = [self._labels.name(int(i)) for i in np.flatnonzero(flat > 0)]
        return {"labels": chosen, "scores": scores.tolist()}


def _shares(array: Array, label: object, record: Record) -> Array:
    """Return labels for each class by itself as they are; beyond 0 and 1 their loss would have no lower bound."""
    if array.size and (array.min() < 0.0 or array.max() > 1.0):
        raise DataError(
            f"{record.where} has {fields.short(label)} for labels, and bce-with-logits takes 0 for no, 1 for yes and "
            "shares between them: write the labels so"
        )
    return array


def placeholder(shape: tuple[int | str, ...], dtype: str) -> Array:
    """Return zeros for a target that isn't known; dynamic axes get size 1."""
    return np.zeros([dim if isinstance(dim, int) else 1 for dim in shape[1:]], dtype)
