"""Graphs without weights: the counterpart of a graph file whose stored tensors are plain inputs.

Devices with a memory of their own bind their buffers to these inputs, so that weights are held once and nothing of them
is a constant. The graphs lie beside the weights file by name only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .manifest import ACTIVATIONS_FILE, LOSS_FILE, PREFIX_FILE, SUFFIX_FILE

Kind = Literal["inputs", "float16"]
INPUTS: Kind = "inputs"  # float32, or what a tensor is stored as
FLOAT16: Kind = "float16"  # weights and activations up to the logits in float16

ORIGINALS = (LOSS_FILE, PREFIX_FILE, SUFFIX_FILE, ACTIVATIONS_FILE)
_SHOW_PREDICTIONS = (LOSS_FILE, SUFFIX_FILE)  # these have another counterpart that gives predictions, too
_SUFFIX = ".onnx"


def counterpart(file: str, kind: Kind, *, predictions: bool = False) -> str:
    """Return the file of a graph's counterpart: ``loss.onnx`` -> ``loss_inputs.onnx``.

    Args:
        file: one of ``ORIGINALS``.
        kind: what its numbers are.
        predictions: the one that computes predictions in every pass, which the other never does; of token tasks'
            ``loss.onnx`` and ``suffix.onnx`` alone.
    """
    stem = file.removesuffix(_SUFFIX)
    if predictions:
        stem = "predictions" if file == LOSS_FILE else f"predictions_{stem}"
    return f"{stem}_{kind}{_SUFFIX}"


def counterparts(kind: Kind) -> tuple[str, ...]:
    """Return every file of one kind that a bundle may have."""
    plain = (counterpart(file, kind) for file in ORIGINALS)
    return (*plain, *(counterpart(file, kind, predictions=True) for file in _SHOW_PREDICTIONS))


def has(files: Iterable[str], kind: Kind) -> bool:
    """Whether a bundle with these files has the counterparts of one kind, which are written together or not at all."""
    return counterpart(LOSS_FILE, kind) in files
