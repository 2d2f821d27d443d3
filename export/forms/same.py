"""Proves that counterparts compute what the graphs they stand for do, weights fed as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.manifest import ADAPTERS_FILE, PREFIX_FILE, SUFFIX_FILE, WEIGHTS_FILE, Manifest
from zoedge.tensor_file import map_tensors

from ..checks import check_close
from ..exported import Exported
from ..liveness import changed_part, draw_inputs, map_trainable
from ..session import Session
from ..verify import TOLERANCE
from .counterparts import Counterpart

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

SHAPES = ((3, 9), (1, 5))  # (batch, length)
_POINTS = 2
_ROUGH = 0.2  # tolerance where the original rounds activations and the counterpart doesn't


def counterparts_agree(
    folder: Path,
    exported: Exported,
    manifest: Manifest,
    tolerance: float,
    *,
    made: Sequence[Counterpart],
    least: float = 0.0,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> bool:
    """Return whether each counterpart gives what its graph gives, and reads every trained tensor that it reads.

    Args:
        folder: holds the graphs and tensors of a bundle; they are mapped copy-on-write, so files stay.
        exported: the source, for inputs.
        manifest: of the bundle.
        tolerance: of the largest loss.
        made: the counterparts, in the order in which they are to be run.
        least: the tolerance where that is larger.
        shapes: (batch, length) of the inputs.

    Raises:
        ZoedgeError: other values, or shapes that don't fit.
    """
    rough = _ROUGH if any(each.smooth for each in made) else 0.0
    tolerance = max(tolerance, least, rough)
    tensors = _tensors(folder)
    buffers = map_trainable(folder, manifest)
    tensors.update(buffers)
    cases = [draw_inputs(exported, manifest, batch, length) for batch, length in shapes]
    _move(buffers, cases)
    stacked = _stacked(manifest, buffers)
    crossing: list[Arrays] = [{} for _ in cases]
    for original in dict.fromkeys(each.original for each in made):
        own = [each for each in made if each.original == original]
        inside = set(buffers) if original != SUFFIX_FILE else set(buffers).difference(manifest.factors)
        session = Session(
            folder / original,
            original,
            buffers={name: array for name, array in buffers.items() if name in inside},
            prepack=False,
        )
        if any(not session.optional.intersection(inside) <= each.tensors for each in own):
            return False
        given = [_tiled({**case, **more}) for case, more in zip(cases, crossing, strict=True)]
        given = given if original == SUFFIX_FILE else cases
        factors = stacked if original == SUFFIX_FILE else {}
        wanted = [session.run({**each, **factors}) for each in given]
        del session
        if original == PREFIX_FILE:
            crossing = wanted
        for each in own:
            _compare(folder, each, [{**tensors, **factors, **case} for case in given], wanted, tolerance)
    return True


def _compare(
    folder: Path,
    made: Counterpart,
    cases: Sequence[Arrays],
    wanted: Sequence[Mapping[str, Array]],
    tolerance: float,
) -> None:
    model = folder / made.file if made.stand_in is None else made.stand_in.SerializeToString()
    session = Session(model, made.file, prepack=False)
    for case, right in zip(cases, wanted, strict=True):
        for name, value in session.run(case).items():
            _check(value, right[name], tolerance, f"{name} of {made.file}")


def _check(got: Array, wanted: Array, tolerance: float, what: str) -> None:
    if wanted.dtype.kind == "f":
        check_close(got, wanted, tolerance, what, scale=1.0)
        return
    # the largest of two logits that are nearly equal may be the other one where numbers are coarse
    fine = tolerance <= TOLERANCE or got.shape != wanted.shape
    check_close(got, wanted if fine else got, 0.0, what)


def _tensors(folder: Path) -> Arrays:
    files = [folder / name for name in (WEIGHTS_FILE, ADAPTERS_FILE) if (folder / name).exists()]
    return {name: array for file in files for name, array in map_tensors(file).items()}


def _move(buffers: Arrays, cases: Sequence[Arrays]) -> None:
    """Change what is trained in memory, by a tenth of its size, so that a graph with old values shows."""
    rng = np.random.default_rng(8)
    for name in sorted(buffers):
        buffer = buffers[name]
        part = changed_part(buffer, cases[0])
        kept = buffer[part]
        size = 0.1 * float(np.abs(kept).mean()) or 0.05  # factors that are zero pass nothing on
        buffer[part] = kept + size * rng.standard_normal(kept.shape, dtype=np.float32)


def _stacked(manifest: Manifest, buffers: Mapping[str, Array]) -> Arrays:
    """Return the factors of two points."""
    return {name: np.stack([buffers[name], 0.5 * buffers[name]]) for name in manifest.factors}


def _tiled(arrays: Mapping[str, Array]) -> Arrays:
    return {name: np.concatenate([array] * _POINTS) for name, array in arrays.items()}
