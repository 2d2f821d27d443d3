"""Philox4x64-10 (Salmon et al., SC 2011) compiled: a block at a time, or eight in the lanes of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what the two words of the key grow by in each round
ROUNDS = 10

_M0, _M1, _W0, _W1 = (np.uint64(constant) for constant in (*MULTIPLIERS, *WEYL))
_I32, _I64, _I128 = (ir.IntType(width) for width in (32, 64, 128))
_EIGHT = ir.VectorType(_I64, 8)


@intrinsic  # type: ignore[untyped-decorator]
def _multiply(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the upper and the lower 64 bits of the 128-bit product of two uint64.

    Left to itself LLVM splits the product in two.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = (builder.zext(argument, _I128) for argument in arguments)
        product = builder.mul(x, y)
        high = builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)
        return context.make_tuple(builder, signature.return_type, [high, builder.trunc(product, _I64)])

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), emit


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def philox(block: Any, step: Any, probe: Any, purpose: Any, k0: Any, k1: Any) -> Any:
    """Return the four words of a stream's block; all but ``block`` are uint64."""
    c0, c1, c2, c3 = np.uint64(block + 1), step, probe, purpose
    for _ in range(ROUNDS):
        high0, low0 = _multiply(_M0, c0)
        high1, low1 = _multiply(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


def emit_philox_8(builder: Any, block: Any, rest: Sequence[Any], key: Sequence[Any]) -> list[Any]:
    """Emit the words of blocks ``block`` .. ``block + 7``, as four vectors of [8] uint64.

    Args:
        builder: of LLVM's code.
        block: i64, the first block.
        rest: i64, the other three words of the counter.
        key: i64, the two words of the key.
    """
    first = builder.add(_broadcast(builder, block), ir.Constant(_EIGHT, list(range(1, 9))))
    c = [first, *(_broadcast(builder, word) for word in rest)]
    for r in range(ROUNDS):
        k0, k1 = (
            _broadcast(builder, builder.add(word, ir.Constant(_I64, r * weyl % 2**64)))
            for word, weyl in zip(key, WEYL, strict=True)
        )
        high0, low0 = _multiply_8(builder, c[0], MULTIPLIERS[0])
        high1, low1 = _multiply_8(builder, c[2], MULTIPLIERS[1])
        c = [builder.xor(builder.xor(high1, c[1]), k0), low1, builder.xor(builder.xor(high0, c[3]), k1), low0]
    return c


def _multiply_8(builder: Any, x: Any, factor: int) -> tuple[Any, Any]:
    """Return the upper and the lower 64 bits of eight products, put together from those of 32-bit halves."""
    mask, half = _all(2**32 - 1), _all(32)
    x0, x1 = builder.and_(x, mask), builder.lshr(x, half)
    f0, f1 = _all(factor % 2**32), _all(factor >> 32)
    lowest = builder.mul(x0, f0)
    middle = builder.add(builder.mul(x1, f0), builder.lshr(lowest, half))  # can't overflow, nor can the next
    other = builder.add(builder.mul(x0, f1), builder.and_(middle, mask))
    carried = builder.add(builder.lshr(middle, half), builder.lshr(other, half))
    high = builder.add(builder.mul(x1, f1), carried)
    return high, builder.or_(builder.shl(other, half), builder.and_(lowest, mask))


def _all(value: int) -> Any:
    return ir.Constant(_EIGHT, [value] * 8)


def _broadcast(builder: Any, scalar: Any) -> Any:
    none = ir.Constant(_EIGHT, ir.Undefined)
    first = builder.insert_element(none, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(_I32, 8), [0] * 8))
