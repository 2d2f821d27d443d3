"""How many threads a forward pass is worth."""

from __future__ import annotations

import numpy as np

from zoedge.manifest import Manifest

SMALL_MODEL = 1 << 20  # elements: below, handing work between threads costs more than it saves


def threads_for(manifest: Manifest, asked: int) -> int:
    """Return the intra-op threads of a session: what was asked for, else 1 for small models, else 0 (all)."""
    if asked:
        return asked
    elements = sum(int(np.prod(p.shape, dtype=np.int64)) for p in manifest.parameters)
    return 1 if elements < SMALL_MODEL else 0
