"""Proves that another whole loss graph computes what the ordinary one does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoedge.manifest import LOSS_FILE, Manifest

from ..checks import check_close
from ..exported import Exported
from ..liveness import changed_part, draw_inputs, map_trainable
from ..session import Session

_SHAPES = ((1, 8), (3, 9))  # (batch, length)


def losses_agree(
    folder: Path,
    exported: Exported,
    manifest: Manifest,
    tolerance: float,
    *,
    file: str,
    tensors: Sequence[str],
) -> bool:
    """Return whether both graphs give the same losses, also after each of some tensors changed in memory.

    Args:
        folder: holds the graphs and tensors of a bundle; they are mapped copy-on-write, so files stay.
        exported: the source, for inputs.
        manifest: of the bundle.
        tolerance: of the largest loss.
        file: the other graph.
        tensors: trained ones that it reads otherwise than the ordinary graph does.

    Raises:
        ZoedgeError: other losses, or shapes that don't fit.
    """
    buffers = map_trainable(folder, manifest)
    cases = [draw_inputs(exported, manifest, batch, length) for batch, length in _SHAPES]
    rng = np.random.default_rng(7)
    first, second = (
        Session(folder / name, name, buffers=buffers, prepack=False) for name in (LOSS_FILE, file)
    )
    if not second.optional.issuperset(tensors):
        return False
    for inputs in cases:
        wanted, got = (session.run(inputs)["loss"] for session in (first, second))
        check_close(got, wanted, tolerance, f"loss of {file}", scale=1.0)
    for name in tensors:  # one after the other, and all stay changed
        before = second.run(cases[0])
        part = changed_part(buffers[name], cases[0])
        buffers[name][part] += 0.1 * rng.standard_normal(buffers[name][part].shape, dtype=np.float32)
        after = second.run(cases[0])
        if all(np.array_equal(before[output], after[output], equal_nan=True) for output in after):
            return False
    wanted, got = (session.run(cases[0])["loss"] for session in (first, second))
    check_close(got, wanted, 10 * tolerance, f"loss of {file}", scale=1.0)
    return True
