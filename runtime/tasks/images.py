"""Pixels in NumPy: axes, channels, size and normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import DataError
from zoedge.manifest import Image

from ..data.example import Array

Float32 = NDArray[np.float32]


def pixel_values(image: Array, settings: Image, where: str) -> Float32:
    """Return an image as the model takes it, float32 [channels, height, width].

    Args:
        image: [H, W], [H, W, C] or [C, H, W] of any real dtype, with values as the model's rescale factor
            expects them (0 to 255 as a rule).
        settings: what the model takes.
        where: the record, for errors.

    Raises:
        DataError: another shape, not numbers, or colours for a model of another number of channels.
    """
    if image.dtype.kind not in "buif":
        raise DataError(f"{where} has an image of {image.dtype}: give numbers, uint8 as a rule")
    planes = _channels_first(image, settings.channels, where).astype(np.float32)
    sized = resize(planes, settings.height, settings.width)
    mean = np.array(settings.mean or [0.0], np.float32).reshape(-1, 1, 1)
    std = np.array(settings.std or [1.0], np.float32).reshape(-1, 1, 1)
    normal: Float32 = (sized * np.float32(settings.rescale) - mean) / std
    return np.repeat(normal, settings.channels, axis=0) if len(normal) < settings.channels else normal


def resize(image: Float32, height: int, width: int) -> Float32:
    """Return [C, H, W] resized to [C, height, width] by bilinear interpolation between pixel centres.

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``, so without
    smoothing where the image gets smaller.
    """
    if image.shape[1:] == (height, width):
        return image
    low, high, part = _neighbours(image.shape[1], height)
    rows = image[:, low] * (1 - part)[:, None] + image[:, high] * part[:, None]
    low, high, part = _neighbours(image.shape[2], width)
    return np.asarray(rows[:, :, low] * (1 - part) + rows[:, :, high] * part, np.float32)


def _neighbours(size: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Return for each new pixel the two old ones around its centre, and the share of the second."""
    centre = np.maximum((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0.0)
    low = np.minimum(centre.astype(np.intp), size - 1)
    return low, np.minimum(low + 1, size - 1), (centre - low).astype(np.float32)


def _channels_first(image: Array, channels: int, where: str) -> Array:
    """Return [C, H, W] with C the model's number of channels, or 1 for a grey image."""
    allowed = {1, channels}
    if image.ndim == 2 and image.size:
        return image[None]
    if image.ndim == 3 and image.size:
        if image.shape[2] in allowed:
            return image.transpose(2, 0, 1)
        if image.shape[0] in allowed:
            return image
    raise DataError(
        f"{where} has an image of shape {list(image.shape)}, and the model takes {channels} channels: give "
        f"[height, width], [height, width, {channels}] or [{channels}, height, width]"
    )
