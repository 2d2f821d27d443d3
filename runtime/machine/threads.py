"""How many threads there are to use, and how many a forward pass is worth."""

from __future__ import annotations

import os

import numpy as np

from zoedge.manifest import Manifest

SMALL_MODEL = 1 << 20  # elements: below, handing work between threads costs more than it saves


def threads_for(manifest: Manifest, asked: int) -> int:
    """Return the intra-op threads of a session: what was asked for, else 1 for small models, else 0 (all)."""
    if asked:
        return asked
    elements = sum(int(np.prod(p.shape, dtype=np.int64)) for p in manifest.parameters)
    return 1 if elements < SMALL_MODEL else 0


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may grant fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
