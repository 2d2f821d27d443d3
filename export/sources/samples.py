"""Fresh valid model inputs, for checking an export on other values and shapes than it was traced with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.manifest import Dim, Image

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, SampleInputs


def text_samples(
    ids: Sequence[int], pad_id: int, names: Sequence[str], positions: int | None
) -> SampleInputs:
    """Return a generator of token batches with right padding.

    Args:
        ids: token ids to draw from (no special ones: a model may read a pad id as padding).
        pad_id: what stands on padding.
        names: the model's inputs among input_ids, attention_mask and token_type_ids.
        positions: longest sequence the model takes; longer requests are cut to it.
    """
    choice = np.asarray(ids, np.int64)

    def sample(rng: np.random.Generator, batch: int, length: int) -> Arrays:
        width = length if positions is None else min(length, positions)
        lengths = rng.integers(1, width + 1, size=batch)
        lengths[0] = width  # one row without padding
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        tokens = np.where(mask == 1, rng.choice(choice, size=(batch, width)), pad_id)
        second = (np.arange(width) >= lengths[:, None] // 2).astype(np.int64) * mask
        arrays = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": second}
        return {name: arrays[name] for name in names}

    return sample


def image_samples(image: Image, name: str) -> SampleInputs:
    """Return a generator of standard normal pixel values; the length is ignored."""

    def sample(rng: np.random.Generator, batch: int, length: int) -> Arrays:
        shape = (batch, image.channels, image.height, image.width)
        return {name: rng.standard_normal(shape, dtype=np.float32)}

    return sample


def like_samples(
    examples: Mapping[str, np.ndarray[Any, Any]], shapes: Mapping[str, Sequence[Dim]]
) -> SampleInputs:
    """Return a generator of inputs with the dtype and the range of ``examples``.

    A dimension named "batch" gets the batch, another named one the length.
    """
    draws = {name: _draw_like(example) for name, example in examples.items()}

    def sample(rng: np.random.Generator, batch: int, length: int) -> Arrays:
        named = {"batch": batch}
        sizes = {
            name: tuple(dim if isinstance(dim, int) else named.get(dim, length) for dim in shape)
            for name, shape in shapes.items()
        }
        return {name: draw(rng, sizes[name]) for name, draw in draws.items()}

    return sample


def _draw_like(
    example: np.ndarray[Any, Any],
) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray[Any, Any]]:
    dtype = example.dtype
    if dtype.kind == "f":
        mean, scale = float(example.mean()), float(example.std())
        return lambda rng, shape: (mean + (scale or 1.0) * rng.standard_normal(shape)).astype(dtype)
    low, high = int(example.min()), int(example.max())
    return lambda rng, shape: rng.integers(low, high + 1, size=shape).astype(dtype)
