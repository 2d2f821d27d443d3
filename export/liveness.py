"""Finds trainable tensors whose changes a session doesn't see, or that change nothing.

A folded, packed or copied weight fails silently: the run would tune a tensor that nothing reads. So each
trainable is changed in the memory that the session shares, and some output has to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.errors import ZoedgeError
from zoedge.manifest import LOSS_FILE, Manifest, Parameter
from zoedge.tensor_file import map_tensors

from .checks import draw_labels, draw_positions, label_logits
from .exported import Exported
from .session import Session
from .surgery.graph import subgraphs

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_TRIES = ((1, 8), (4, 32))  # (batch, length): a larger batch for what a small one doesn't reach
_BRANCH_TRIES = 16  # inputs of other seeds, where a tensor in a branch showed no effect
_WHOLE_ELEMENTS = 1 << 20  # larger tensors are changed in some rows only, to copy few pages of the map
_ROWS = 16
_FED_BYTES = 1 << 26


def find_dead(folder: Path, exported: Exported, manifest: Manifest) -> tuple[str, ...]:
    """Return the trainable tensors that have no effect on any output of the loss graph.

    Args:
        folder: holds the graphs and tensors of a bundle; they are mapped copy-on-write, so files stay.
        exported: the source, for inputs.
        manifest: of the bundle.

    Raises:
        ZoedgeError: onnxruntime treats a trainable tensor as a constant, gives other bits for equal inputs
            and weights, or reads old values of some.
    """
    buffers = map_trainable(folder, manifest)
    session = Session(folder / LOSS_FILE, LOSS_FILE, buffers=buffers)
    constant = sorted(set(buffers) - session.optional)
    if constant:
        raise ZoedgeError(
            f"onnxruntime holds {constant[0]} as a constant, so tuning could not reach it: please report this model"
        )
    _open_branches(buffers, manifest)
    rows = {row.name: row for row in manifest.trainable}
    dead = list(rows)
    for inputs in _drawn(exported, manifest):
        first = _bits(session.run(inputs))
        dead = [name for name in dead if not _is_live(session, inputs, first, rows[name], buffers[name])]
        if _bits(session.run(inputs)) != first:
            raise ZoedgeError(
                f"{LOSS_FILE} gives other bits after its weights were changed and restored: onnxruntime "
                f"has an operator that isn't deterministic, or keeps copies of weights; please report this model"
            )
        if not dead:
            break
    _check_no_stale_copy(folder, session, inputs, buffers)
    return tuple(dead)


def _drawn(exported: Exported, manifest: Manifest) -> Iterator[Arrays]:
    """Yield inputs on which tensors are changed, until each has shown an effect."""
    yield from (draw_inputs(exported, manifest, batch, length) for batch, length in _TRIES)
    if any(
        True for node in exported.model.graph.node for _ in subgraphs(node)
    ):  # a branch may be taken rarely
        for seed in range(_BRANCH_TRIES):
            drawn = draw_inputs(exported, manifest, *_TRIES[0], seed=seed)
            yield {
                name: -array if seed % 2 and array.dtype.kind == "f" else array
                for name, array in drawn.items()
            }


def map_trainable(folder: Path, manifest: Manifest) -> Arrays:
    """Return one writable, contiguous view per trainable tensor of the files, which stay as they are."""
    maps = {file: map_tensors(folder / file) for file in {row.file for row in manifest.trainable}}
    return {
        row.name: np.require(maps[row.file][row.name], requirements=["C", "A", "W"])
        for row in manifest.trainable
    }


def _open_branches(buffers: Arrays, manifest: Manifest) -> None:
    """Fill what is zero in branches, without which the rest shows no effect."""
    rng = np.random.default_rng(2)
    for name in manifest.factors:
        if not buffers[name].any():
            buffers[name][...] = 0.1 * rng.standard_normal(buffers[name].shape)


def draw_inputs(exported: Exported, manifest: Manifest, batch: int, length: int, *, seed: int = 3) -> Arrays:
    """Return inputs and labels of the loss graph."""
    rng = np.random.default_rng(seed)
    inputs = exported.sample_inputs(rng, batch, length)
    logits = exported.rows_first(exported.reference(inputs))[exported.logits]
    inputs = exported.rows_first(inputs)
    inputs = {**inputs, **draw_positions(manifest, inputs, rng)}
    logits = label_logits(manifest, logits, inputs)
    return {**inputs, **draw_labels(manifest, logits, rng)}


def _is_live(
    session: Session, inputs: Arrays, first: dict[str, bytes], row: Parameter, buffer: Array
) -> bool:
    """Change a tensor, run, restore it; return whether an output changed."""
    rng = np.random.default_rng(4)
    for scale in (1.0, 30.0):
        part = changed_part(buffer, inputs)
        kept = buffer[part].copy()
        spread = scale * (float(np.abs(kept).mean()) + 0.1)
        buffer[part] = kept + spread * rng.standard_normal(kept.shape, dtype=np.float32)
        changed = _bits(session.run(inputs)) != first
        buffer[part] = kept
        if changed:
            return True
    return False


def changed_part(buffer: Array, inputs: Mapping[str, Array]) -> Any:
    """Return an index of what to change: all, or some rows with those that ids of the inputs look up."""
    if buffer.size <= _WHOLE_ELEMENTS or buffer.ndim < 2:
        return ...
    rows = len(buffer)
    ids = [array.ravel() for array in inputs.values() if array.dtype.kind in "iu"]
    spread = np.linspace(0, rows - 1, _ROWS, dtype=np.int64)
    every = np.unique(np.concatenate([*ids, np.arange(_ROWS), spread]).astype(np.int64))
    return every[(every >= 0) & (every < rows)]


def _check_no_stale_copy(folder: Path, session: Session, inputs: Arrays, buffers: Arrays) -> None:
    """Change everything a little and compare with a second session that is fed the same values.

    This finds a tensor that is used twice and stale in one place, which a change alone doesn't show. The second
    session packs no frozen weights, to save memory; where it disagrees, one that packs them decides, as some
    quantised operators compute in another precision then.
    """
    if sum(buffer.nbytes for buffer in buffers.values()) > _FED_BYTES:
        return
    rng = np.random.default_rng(5)
    kept = {name: buffer.copy() for name, buffer in buffers.items()}
    for buffer in buffers.values():
        buffer += 0.01 * rng.standard_normal(buffer.shape, dtype=np.float32)
    shared = session.run(inputs)
    for prepack in (False, True):
        fed = Session(folder / LOSS_FILE, LOSS_FILE, prepack=prepack).run({**inputs, **buffers})
        differing = [name for name, value in shared.items() if not _is_close(value, fed[name])]
        if not differing:
            break
    for name, buffer in buffers.items():
        buffer[...] = kept[name]
    if differing:
        raise ZoedgeError(
            f"{differing[0]} of {LOSS_FILE} doesn't follow changes of the weights: please report this model"
        )


def _is_close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True))


def _bits(outputs: Mapping[str, Array]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in outputs.items()}
