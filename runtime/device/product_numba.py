"""``product.product`` compiled by numba: the same order of operations, without temporary matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..machine.compiled import compiled


def _product(u: Any, s: Any, out: Any) -> None:
    # without fastmath nothing is reassociated or contracted, so every product and sum is rounded as NumPy's are
    rank = s.shape[0]
    for i in range(u.shape[0]):
        for j in range(rank):
            out[i, j] = np.float32(0.0)
        for k in range(rank):
            factor = u[i, k]
            for j in range(rank):
                out[i, j] += factor * s[k, j]


product = compiled(_product)
