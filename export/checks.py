"""Fresh inputs with labels for checking a bundle, and comparisons with a stated tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.errors import ZoedgeError
from zoedge.manifest import Manifest
from zoedge.names import LABELS, POSITIONS, in_graph

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_IGNORED = -100
_POSITIONS = 3


def draw_positions(manifest: Manifest, inputs: Mapping[str, Array], rng: np.random.Generator) -> Arrays:
    """Return ``label_positions`` inside each row's text, the last token first; {} where the task has none."""
    port = next((port for port in manifest.inputs if port.name == POSITIONS), None)
    if port is None:
        return {}
    ids = inputs["input_ids"]
    lengths = (
        inputs["attention_mask"].sum(axis=1)
        if "attention_mask" in inputs
        else np.full(len(ids), ids.shape[1])
    )
    count = port.shape[1] if isinstance(port.shape[1], int) else _POSITIONS
    positions = np.asarray(rng.integers(0, lengths[:, None], size=(len(ids), count)), np.int64)
    positions[:, 0] = lengths - 1
    return {POSITIONS: positions}


def draw_labels(manifest: Manifest, logits: Array, rng: np.random.Generator) -> Arrays:
    """Return labels that fit logits [batch, ..., classes], by their name inside the graph.

    Some token labels are -100, never a row's first.
    """
    name = in_graph(LABELS)
    if manifest.loss == "mse":
        labels = np.empty(logits.shape, np.float32)
        rng.standard_normal(out=labels, dtype=np.float32)
        return {name: labels}
    if manifest.loss == "bce-with-logits":
        return {name: np.asarray(rng.random(logits.shape) < 0.5, np.float32)}
    labels = rng.integers(0, logits.shape[-1], logits.shape[:-1])
    if manifest.loss == "token-cross-entropy":
        ignored = rng.random(labels.shape) < 0.3
        ignored[:, 0] = False
        labels = np.where(ignored, _IGNORED, labels)
    return {name: labels.astype(np.int64)}


def label_logits(manifest: Manifest, logits: Array, inputs: Mapping[str, Array]) -> Array:
    """Return the source's logits as the loss sees them: at the label positions, of the label words."""
    if POSITIONS in inputs:
        logits = np.take_along_axis(logits, inputs[POSITIONS][:, :, None], axis=1)
    if manifest.text is not None and manifest.text.label_word_ids:
        logits = logits[:, 0, list(manifest.text.label_word_ids)]
    return logits


def check_close(got: Array, wanted: Array, tolerance: float, what: str, *, scale: float = 0.0) -> None:
    """Require max |got - wanted| <= tolerance * max(1e-3, scale, max |wanted|).

    Raises:
        ZoedgeError: they differ by more, in shape, or in where they are finite.
    """
    if got.shape != wanted.shape:
        raise ZoedgeError(
            f"{what} has the shape {list(got.shape)} instead of {list(wanted.shape)}: please report this model"
        )
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        raise ZoedgeError(
            f"{what} is not finite where the source's is: the source has unusual weights or inputs"
        )
    if not finite.any():
        return
    a, b = got[finite].astype(np.float64), wanted[finite].astype(np.float64)
    error = float(np.abs(a - b).max() / max(1e-3, scale, float(np.abs(b).max())))
    if error > tolerance:
        raise ZoedgeError(
            f"{what} differs from the source by {error:.1e} of its largest value, above {tolerance:.0e}: "
            "the bundle is not written"
        )
