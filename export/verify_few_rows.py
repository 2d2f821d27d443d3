"""Proves that a loss graph with its trained matrices on the left computes what the ordinary one does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoedge.errors import ZoedgeError
from zoedge.manifest import FEW_ROWS_FILE, LOSS_FILE, Manifest

from .checks import check_close
from .exported import Exported
from .liveness import changed_part, draw_inputs, map_trainable
from .session import Session

_SHAPES = ((1, 8), (3, 9))  # (batch, length)


def few_rows_agree(
    folder: Path, exported: Exported, manifest: Manifest, matrices: Sequence[str], tolerance: float
) -> bool:
    """Return whether both graphs give the same losses, also after each of the matrices changed in memory.

    Args:
        folder: holds the graphs and tensors of a bundle; they are mapped copy-on-write, so files stay.
        exported: the source, for inputs.
        manifest: of the bundle.
        matrices: those that are on the left.
        tolerance: of the largest loss.
    """
    buffers = map_trainable(folder, manifest)
    cases = [draw_inputs(exported, manifest, batch, length) for batch, length in _SHAPES]
    rng = np.random.default_rng(7)
    try:
        first, second = (
            Session(folder / file, file, buffers=buffers, prepack=False)
            for file in (LOSS_FILE, FEW_ROWS_FILE)
        )
        if not second.optional.issuperset(matrices):
            return False
        for inputs in cases:
            wanted, got = (session.run(inputs)["loss"] for session in (first, second))
            check_close(got, wanted, tolerance, f"loss of {FEW_ROWS_FILE}", scale=1.0)
        for name in matrices:  # one after the other, and all stay changed
            before = second.run(cases[0])
            part = changed_part(buffers[name], cases[0])
            buffers[name][part] += 0.1 * rng.standard_normal(buffers[name][part].shape, dtype=np.float32)
            after = second.run(cases[0])
            if all(np.array_equal(before[output], after[output], equal_nan=True) for output in after):
                return False
        wanted, got = (session.run(cases[0])["loss"] for session in (first, second))
        check_close(got, wanted, 10 * tolerance, f"loss of {FEW_ROWS_FILE}", scale=1.0)
    except ZoedgeError:  # InputError is one: shapes that don't fit
        return False
    return True
