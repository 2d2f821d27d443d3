"""Products of a tall and a small matrix, with the same bits on every processor."""

from __future__ import annotations

import importlib.util
from typing import Protocol

from ..noise.reference import Float32


class Product(Protocol):
    """out = u @ s, summed over the columns of u one after the other, each product and sum rounded to float32."""

    def __call__(self, u: Float32, s: Float32, out: Float32) -> None:
        """Write the product.

        Args:
            u: [n, R], contiguous.
            s: [R, R], contiguous.
            out: [n, R], contiguous.
        """


def product(u: Float32, s: Float32, out: Float32) -> None:
    """The reference: see ``Product``."""
    out[...] = 0.0
    for k in range(len(s)):
        out += u[:, k : k + 1] * s[k]


def product_here() -> Product:
    """Return the fastest implementation that can run."""
    if importlib.util.find_spec("numba") is None:
        return product
    from .product_numba import product as compiled

    return compiled
