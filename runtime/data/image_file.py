"""Image files, through the optional package Pillow: the one place that imports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import DataError, MissingPackageError


def read_image(path: Path, *, grey: bool = False) -> NDArray[np.generic]:
    """Return the pixels of an image file.

    Args:
        path: a file that Pillow reads, or ``.npy`` with an array.
        grey: whether colours are turned into one channel.

    Returns:
        uint8 [height, width] or [height, width, 3]; of ``.npy`` the array as it is.

    Raises:
        MissingPackageError: Pillow isn't installed.
        DataError: there is no such file, or it is no image.
    """
    if not path.is_file():
        raise DataError(f"{path} doesn't exist: this model takes images, so give the paths of image files")
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingPackageError("Pillow", "image", f"reading {path}") from error
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as an image: give a PNG, JPEG or .npy file") from error
