"""How a new head that directions move starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoedge.manifest import Manifest

from ..noise.reference import PURPOSE_INIT, Stream, directions, tensor_id
from ..records import Assign
from ..run.fold import FULL
from .refit import HeadRefit

_DEVIATION = 0.02  # of a random head's weights, as the encoders' own initialisation


def initial_head(
    manifest: Manifest, kind: str, seed: int, refit: HeadRefit | None
) -> Callable[[], Assign] | None:
    """Return what gives a new head its first values, or None where it stays as exported (zeros).

    Args:
        manifest: the bundle's; its head may be absent.
        kind: "probe", "zeros" or "random".
        seed: the run's.
        refit: solves the head, for "probe".
    """
    head = manifest.head
    if head is None or not head.fresh:
        return None
    if kind == "probe" and refit is not None:
        return lambda: Assign(0, {FULL: refit.fit().heads[FULL]})
    if kind == "random":
        shape = next(p.shape for p in manifest.parameters if p.name == head.weight)
        z = directions(Stream(seed, tensor_id(head.weight), 0, 0, PURPOSE_INIT), shape)
        return lambda: Assign(0, {FULL: {head.weight: np.float32(_DEVIATION) * z}})
    return None
