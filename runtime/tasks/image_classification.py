"""Image classification: an array of pixels and one label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, DataError

from ..data.example import Array, Example
from ..data.record import Record
from . import fields
from .images import pixel_values
from .labels import Labels


class ImageClassification:
    """Records with ``image`` (also ``images``, ``x``) and ``label``, as ``.npz`` files hold them.

    An image is [H, W], [H, W, C] or [C, H, W] in raw pixels; a grey one is repeated to the model's channels.
    A field with the graph input's own name (``pixel_values``) is taken as it is and must have its shape.

    Raises:
        BundleError: the bundle doesn't say how images are prepared.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.image is None:
            raise BundleError(f"{bundle.folder} doesn't say how images are prepared: export it again")
        self._image = bundle.manifest.image
        self._port = bundle.manifest.inputs[0]
        self._labels = Labels(bundle.manifest)

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return the pixels float32 [channels, height, width] and labels int64 []."""
        label = self._labels.index(fields.label(record), record.where) if labelled else 0
        targets = {"labels": np.array(label, np.int64)}
        return Example({self._port.name: self._pixels(record)}, targets)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``label`` and ``score``, its probability."""
        return self._labels.best(outputs["logits"])

    def _pixels(self, record: Record) -> Array:
        settings = self._image
        if self._port.name in record.fields:
            ready = _numbers(record, self._port.name).astype(np.float32)
            shape = (settings.channels, settings.height, settings.width)
            if ready.shape != shape:
                raise DataError(
                    f"{record.where} has {self._port.name} of shape {list(ready.shape)}, which must be "
                    f"{list(shape)}: prepare it so, or name it 'image' to have raw pixels prepared"
                )
            return ready
        key = fields.find_field(record, fields.IMAGE_KEYS)
        if key is not None:
            return pixel_values(_numbers(record, key), settings, record.where)
        if fields.is_text(record):
            raise DataError(
                f"{record.where} holds text and this bundle takes images: give a .npz with image arrays, "
                f"or export a model for text"
            )
        raise fields.missing(
            record, "image", (*fields.IMAGE_KEYS, self._port.name), "give a .npz with such arrays"
        )


def _numbers(record: Record, key: str) -> Array:
    value = record.fields[key]
    if isinstance(value, str):
        raise DataError(
            f"{record.where} has the text {fields.short(value)} as {key!r} and this bundle takes images: "
            f"give the pixels, as arrays in a .npz"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{record.where} has rows of different lengths as {key!r}: give a rectangular image"
        ) from error
