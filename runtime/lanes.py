"""What numba's Python can't say: operations on vectors and wide integers, as portable LLVM code.

Left to itself LLVM splits the products of Philox in two, looks a byte up through the processor's gather
(slower than loads one by one) and adds signs one at a time. numba's cache doesn't see changes of this file:
touch ``noise_numba.py`` after one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FLOAT, _I32, _I64, _I128 = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(128)


@intrinsic  # type: ignore[untyped-decorator]
def multiply_wide(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the upper and the lower 64 bits of the 128-bit product of two uint64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = (builder.zext(argument, _I128) for argument in arguments)
        product = builder.mul(x, y)
        high = builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)
        return context.make_tuple(builder, signature.return_type, [high, builder.trunc(product, _I64)])

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), emit


@intrinsic  # type: ignore[untyped-decorator]
def float32_pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer that ``numba.carray`` takes."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def add_8_levels(typing_context: Any, part: Any, offset: Any, word: Any, table: Any) -> Any:
    """Do ``part[offset + j] += table[byte j of word]`` for j = 0 .. 7."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        levels = _data(context, builder, signature.args[3], arguments[3])
        looked_up = ir.Constant(ir.VectorType(_FLOAT, 8), ir.Undefined)
        for j in range(8):
            byte = builder.and_(builder.lshr(arguments[2], ir.Constant(_I64, 8 * j)), ir.Constant(_I64, 255))
            level = builder.load(builder.gep(levels, [byte]))
            looked_up = builder.insert_element(looked_up, level, ir.Constant(_I32, j))
        _add(builder, _data(context, builder, signature.args[0], arguments[0]), arguments[1], looked_up)

    return types.void(part, types.intp, types.uint64, table), emit


@intrinsic  # type: ignore[untyped-decorator]
def add_32_signs(typing_context: Any, part: Any, offset: Any, word: Any, low: Any, high: Any) -> Any:
    """Do ``part[offset + j] += high if bit j of word else low`` for j = 0 .. 31."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        word, low, high = (_splat(builder, argument) for argument in arguments[2:])
        bits = builder.and_(word, ir.Constant(word.type, [1 << j for j in range(32)]))
        chosen = builder.select(
            builder.icmp_unsigned("!=", bits, ir.Constant(word.type, [0] * 32)), high, low
        )
        _add(builder, _data(context, builder, signature.args[0], arguments[0]), arguments[1], chosen)

    return types.void(part, types.intp, types.uint32, types.float32, types.float32), emit


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return context.make_array(array_type)(context, builder, array).data


def _splat(builder: Any, scalar: Any) -> Any:
    """Return a vector of 32 times the same."""
    none = ir.Constant(ir.VectorType(scalar.type, 32), ir.Undefined)
    first = builder.insert_element(none, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(_I32, 32), [0] * 32))


def _add(builder: Any, data: Any, offset: Any, vector: Any) -> None:
    """Add a vector to the elements from an offset on; they need no alignment but a float's."""
    at = builder.bitcast(builder.gep(data, [offset]), vector.type.as_pointer())
    builder.store(builder.fadd(builder.load(at, align=4), vector), at, align=4)
