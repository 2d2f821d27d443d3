"""Which rows a step takes, and the micro-batches in which they are run.

record -> example -> [rows of the step] -> micro-batches, padded little -> engine -> gather, in order
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.manifest import Manifest
from zoedge.names import named_in_graph

from ..device import FINE, Grain
from ..noise.permutation import permutation
from .buckets import Limits, split_by_length, split_by_shape
from .example import Array, Arrays, Example
from .stack import IGNORED, stack

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one forward pass.

    Attributes:
        inputs: graph input name -> contiguous array [n, ...] of the port's dtype.
        targets: the same for the targets.
        rows: int64 [valid], the position in the step's batch of each of the first ``valid`` rows. Rows after
            them only fill a pass; they repeat the last example and mean nothing.
    """

    inputs: Arrays
    targets: Arrays
    rows: Rows

    @property
    def given(self) -> Arrays:
        """What a forward pass is given: the inputs, and the targets by their names inside the graphs."""
        return {**self.inputs, **named_in_graph(self.targets)}

    @property
    def valid(self) -> int:
        """How many rows are examples of the batch."""
        return len(self.rows)


Result = tuple[MicroBatch, Mapping[str, Array]]  # a micro-batch and the outputs of its forward pass


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, size: int) -> Rows:
    """Return the order int64 [size] of the rows in an epoch (read-only, as it is cached)."""
    order = permutation(seed, "zoedge.batches", epoch, size)
    order.setflags(write=False)
    return order


def batch_indices(seed: int, step: int, size: int, batch_size: int) -> Rows:
    """Return the rows int64 [batch_size] of a step.

    Epochs follow each other without a gap: a batch that reaches the end of one takes the rest from the next,
    so every row is used equally often. A pure function of its arguments, so a resume needs no cursor.

    Raises:
        InputError: the batch is larger than the data.
    """
    if batch_size > size:
        raise InputError(
            f"--batch-size {batch_size} is larger than the data of {size} rows: use at most {size}"
        )
    epoch, start = divmod(step * batch_size, size)
    rows = epoch_order(seed, epoch, size)[start : start + batch_size]
    if len(rows) < batch_size:
        rows = np.concatenate([rows, epoch_order(seed, epoch + 1, size)[: batch_size - len(rows)]])
    return rows


def steps_in(epochs: float, size: int, batch_size: int) -> int:
    """Return how many steps use every one of ``size`` rows at least ``epochs`` times."""
    return math.ceil(epochs * size / batch_size)


def micro_batches(
    examples: Sequence[Example],
    indices: Sequence[int] | Rows,
    *,
    manifest: Manifest,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    grain: Grain = FINE,
) -> list[MicroBatch]:
    """Deal the rows of a batch into micro-batches of like lengths, each padded to its own longest.

    Examples with tokens are dealt as ``buckets.split_by_length`` does, others by their shapes.

    Args:
        examples: the encoded data.
        indices: rows of the step's batch, in its order.
        manifest: names the ports, their dtypes and fixed sizes, and the padding token.
        max_rows: most rows per micro-batch (``--micro-batch-size``).
        max_tokens: most padded tokens per micro-batch; a single longer row still gets its own.
        grain: the device's, which shapes are multiples of.

    Returns:
        Micro-batches that hold every row once; ``gather`` puts their results back in order.
    """
    chosen = [examples[int(i)] for i in indices]
    limits = Limits(max_rows, max_tokens, fixed_rows(manifest), grain)
    lengths = [example.length for example in chosen]
    if manifest.text is not None and any(lengths):
        parts = split_by_length(lengths, limits, manifest.text.max_length)
    else:
        parts = split_by_shape([_shapes(example) for example in chosen], limits)
    return [_micro_batch(chosen, part, manifest, limits) for part in parts]


def gather(results: Sequence[Result]) -> tuple[Arrays, Arrays]:
    """Return the outputs and the targets of a whole batch, in the order of its rows.

    Padding rows are dropped. Where micro-batches differ in a further axis (label positions), shorter ones are
    filled up at the end: integers with -100, as ignored labels are, floats with 0.
    """
    rows = np.concatenate([batch.rows for batch, _ in results])
    order = np.argsort(rows, kind="stable")
    outputs = {name: _joined([(b, out[name]) for b, out in results])[order] for name in results[0][1]}
    targets = {
        name: _joined([(b, b.targets[name]) for b, _ in results])[order] for name in results[0][0].targets
    }
    return outputs, targets


def _joined(parts: Sequence[tuple[MicroBatch, Array]]) -> Array:
    arrays = [array[: batch.valid] for batch, array in parts]
    widths = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    filled = []
    for array in arrays:
        fill = IGNORED if np.issubdtype(array.dtype, np.signedinteger) else 0
        whole = np.full((len(array), *widths), fill, dtype=array.dtype)
        whole[tuple(slice(n) for n in array.shape)] = array
        filled.append(whole)
    return np.concatenate(filled)


def _micro_batch(
    chosen: Sequence[Example], part: Sequence[int], manifest: Manifest, limits: Limits
) -> MicroBatch:
    rows = [*part, *[part[-1]] * (limits.filled(len(part)) - len(part))]
    inputs = stack([chosen[r].inputs for r in rows], manifest.inputs, manifest.text, limits.grain)
    targets = stack([chosen[r].targets for r in rows], manifest.targets, manifest.text, limits.grain)
    return MicroBatch(inputs, targets, np.array(part, dtype=np.int64))


def fixed_rows(manifest: Manifest) -> int | None:
    """Return the rows of every pass where the graph has one batch size; None where it takes any."""
    sizes = [port.shape[0] for port in manifest.inputs if port.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def _shapes(example: Example) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in (*example.inputs.values(), *example.targets.values()))
