"""How a Hugging Face model sees an image, from its ``preprocessor_config.json``."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from zoedge.errors import InputError
from zoedge.manifest import Image

from .hf_origin import Origin

PREPROCESSOR_FILE = "preprocessor_config.json"


def image_settings(origin: Origin, config: PretrainedConfig) -> Image:
    """Return the manifest's image settings.

    The size is that of the crop where the source crops, as the model never sees more than that.

    Raises:
        InputError: no such file, or one without a size.
    """
    settings = origin.json(PREPROCESSOR_FILE)
    if settings is None:
        raise InputError(
            f"{origin.address} has no {PREPROCESSOR_FILE}: save its image processor beside the model"
        )
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    height, width = _size(crop or settings.get("size"), origin)
    normalize = settings.get("do_normalize", True)
    return Image(
        channels=int(getattr(config, "num_channels", 3)),
        height=height,
        width=width,
        rescale=float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
        mean=tuple(settings.get("image_mean", ())) if normalize else (),
        std=tuple(settings.get("image_std", ())) if normalize else (),
    )


def _size(size: Any, origin: Origin) -> tuple[int, int]:
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        height, width = size.get("height", side), size.get("width", side)
    else:
        height = width = size
    if not (isinstance(height, int) and isinstance(width, int)):
        raise InputError(
            f"{PREPROCESSOR_FILE} of {origin.address} has the size {size!r}: it should give height and width"
        )
    return height, width
