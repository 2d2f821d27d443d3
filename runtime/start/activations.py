"""The principal directions of activations, from a few forward passes: where a LoRA branch is worth moving."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LoraBranch, lora_branches
from zoedge.bundle import Bundle
from zoedge.manifest import ACTIVATIONS_FILE

from ..data.batches import MicroBatch, Rows, micro_batches
from ..data.example import Array, Example
from ..device import Device
from ..noise.reference import PURPOSE_INIT, Float32, Stream, directions
from ..passes.engine import Engine
from ..passes.frozen import map_frozen, map_stored
from ..records import Assign
from ..run.fold import FULL
from ..spaces import basis_name

ROWS = 64  # examples looked at
PASS_ROWS = 16  # per forward pass
HELD_BYTES = 96 << 20  # of activations kept
_PASSES = 4  # at least: a pass returns those of every layer, which are held beside what is kept
_PROBES = Stream(0, 0, 0, 0, PURPOSE_INIT)  # where the iteration starts: any fixed directions do
_OVERSAMPLING = 8
_ITERATIONS = 4
TOKENS = 512  # vectors kept per layer at most, evenly spread: bounds the cost of the decomposition
_FEWEST = 64  # vectors kept however wide the model


def branch_bases(
    bundle: Bundle,
    examples: Sequence[Example],
    rows: Rows,
    *,
    device: Device,
    threads: int,
    max_rows: int | None = None,
) -> Assign:
    """Return the record that gives every branch its directions.

    For a layer y = W x, V [in, R] and U [out, R] are the leading singular vectors of its inputs and outputs.
    A = V^T, and U is scaled so that random signs of size eps in S change y by eps times its own size.

    Args:
        bundle: with an activations graph.
        examples: encoded training rows.
        rows: which of them to look at, the first ``ROWS`` at most.
        device, threads: as for the engine.
        max_rows: most rows of a pass; None for the usual.
    """
    held = _vectors_of_layers(bundle, examples, rows[:ROWS], device, threads, max_rows)
    found: dict[str, NDArray[np.float32]] = {}
    for branch in lora_branches(bundle.manifest):
        found |= bases(branch, held.pop(f"{branch.module}:x"), held.pop(f"{branch.module}:y"))
    device.give_back()
    return Assign(0, {FULL: found})


def _vectors_of_layers(
    bundle: Bundle,
    examples: Sequence[Example],
    rows: Rows,
    device: Device,
    threads: int,
    max_rows: int | None,
) -> dict[str, Float32]:
    """Return "module:x" and "module:y" -> vectors [n, width]."""
    # frozen tensors stay where they lie: a few passes are not worth a packed copy of them
    frozen = map_stored(bundle, trained=True) if device.takes_frozen else map_frozen(bundle)
    engine = Engine(bundle.path(ACTIVATIONS_FILE), {}, device=device, threads=threads, frozen=frozen)
    most = _most_vectors(bundle)
    pass_rows = PASS_ROWS if bundle.manifest.text is not None else 1
    batches = micro_batches(
        examples,
        rows,
        manifest=bundle.manifest,
        max_rows=min(pass_rows, max_rows or pass_rows),
        max_tokens=max(_FEWEST, most // _PASSES),
        grain=device.grain,
    )
    share = most / sum(_mass(batch) for batch in batches)
    shares = [math.ceil(share * _mass(batch)) for batch in batches]
    held = _Held(engine.outputs, sum(shares))
    for batch, count in zip(batches, shares, strict=True):
        outputs = engine.run(batch.inputs)
        for name in engine.outputs:
            held.add(name, _thinned(_vectors(outputs.pop(name), batch), count))
    return held.joined()


class _Held:
    """Vectors of some layers, in arrays made once: parts and their concatenation would be held twice."""

    def __init__(self, names: Sequence[str], most: int) -> None:
        self._arrays: dict[str, Float32] = {}
        self._counts = dict.fromkeys(names, 0)
        self._most = most

    def add(self, name: str, vectors: Float32) -> None:
        """Keep more vectors [n, width] of a layer."""
        array = self._arrays.setdefault(name, np.empty((self._most, vectors.shape[1]), np.float32))
        start = self._counts[name]
        self._counts[name] = start + len(vectors)
        array[start : self._counts[name]] = vectors

    def joined(self) -> dict[str, Float32]:
        """Return name -> all vectors."""
        return {name: array[: self._counts[name]] for name, array in self._arrays.items()}


def bases(branch: LoraBranch, x: Float32, y: Float32) -> dict[str, Float32]:
    """Return A [R, in] and the scaled U [out, R] of one branch.

    Args:
        branch: its rank R and alpha.
        x: the layer's inputs [n, in].
        y: its outputs [n, out].
    """
    v, energy = _leading(x, branch.rank)
    u, _ = _leading(y, branch.rank)
    # E||delta y||^2 = (alpha / R)^2 c^2 eps^2 R sum(energy) for B = c U S and S = +-eps; wanted: eps^2 E||y||^2
    size = float(np.square(y.astype(np.float64)).sum(axis=1).mean())
    spread = branch.rank * float(energy.sum())
    c = np.sqrt(size / spread) * branch.rank / branch.alpha if spread > 0.0 else 0.0
    return {branch.a: v.T.astype(np.float32), basis_name(branch): (c * u).astype(np.float32)}


def _leading(x: Float32, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading right singular vectors [width, rank] and their mean energies [rank], zeros behind them.

    Subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4): a full decomposition of every layer
    would take longer than the run's forward passes.
    """
    wide = min(rank + _OVERSAMPLING, *x.shape)
    probes = directions(_PROBES, (x.shape[1], wide))
    basis = np.linalg.qr(probes)[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(x.T @ (x @ basis))[0]
    _, sigma, vt = np.linalg.svd((x @ basis).astype(np.float64), full_matrices=False)
    keep = min(rank, len(sigma))
    vectors, energy = np.zeros((x.shape[1], rank)), np.zeros(rank)
    vectors[:, :keep], energy[:keep] = basis @ vt[:keep].T, sigma[:keep] ** 2 / len(x)
    return vectors, energy


def _vectors(values: Array, batch: MicroBatch) -> Float32:
    """Return the activations of real rows and tokens, [n, width]."""
    real = values[: batch.valid].astype(np.float32, copy=False)
    mask = batch.inputs.get("attention_mask")
    if mask is not None and real.ndim == 3 and mask.shape == values.shape[:2]:
        return np.asarray(real[mask[: batch.valid] != 0])
    return real.reshape(-1, real.shape[-1])


def _most_vectors(bundle: Bundle) -> int:
    """Return how many vectors of every layer are kept, by the sum of the layers' widths."""
    widths = sum(sum(branch.shape) for branch in bundle.manifest.branches)
    return max(_FEWEST, min(TOKENS, HELD_BYTES // (4 * widths)))


def _mass(batch: MicroBatch) -> int:
    """Return a batch's share in the vectors: its real tokens, or its rows where it has none."""
    mask = batch.inputs.get("attention_mask")
    return batch.valid if mask is None else int(mask[: batch.valid].sum())


def _thinned(vectors: Float32, most: int) -> Float32:
    """Return at most so many of the vectors, evenly spread."""
    return vectors[np.linspace(0, len(vectors) - 1, min(most, len(vectors))).astype(np.int64)]
