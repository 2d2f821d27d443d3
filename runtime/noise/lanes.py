"""What numba's Python can't say: look-ups and additions on vectors, as LLVM code.

Left to itself LLVM looks a byte up through the processor's gather (slower than loads one by one, and those
than permuted registers) and adds signs one at a time. Where ``ahead`` is a number and not None, additions also
ask memory for the elements that many behind their own; these may lie outside, as nothing is read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .philox import emit_philox_8

WAITING = 4  # Philox blocks that are computed and not looked up yet
_FLOAT, _I8, _I32, _I64 = ir.FloatType(), *(ir.IntType(width) for width in (8, 32, 64))
_I8_16, _I32_16 = ir.VectorType(_I8, 16), ir.VectorType(_I32, 16)


@intrinsic  # type: ignore[untyped-decorator]
def float32_pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer that ``numba.carray`` takes."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def byte_pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer to bytes that ``numba.carray`` takes."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def waiting_words(typing_context: Any) -> Any:
    """Return a pointer to a place for the words of ``WAITING`` blocks, on the stack of the function that asks."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = cgutils.alloca_once(builder, ir.ArrayType(_I64, 4 * WAITING))
        return builder.bitcast(place, _I64.as_pointer())

    return types.CPointer(types.uint64)(), emit


@intrinsic  # type: ignore[untyped-decorator]
def add_32_levels(
    typing_context: Any, part: Any, offset: Any, ahead: Any, words: Any, first: Any, table: Any
) -> Any:
    """Do ``part[offset + j] += table[byte j]`` for j = 0 .. 31, of the words ``first .. first + 3`` in memory.

    The table has 256 levels in pairs: level 255 - k is level k with its sign turned.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        elements = _data(context, builder, signature.args[0], arguments[0])
        distance = _distance(context, builder, ahead, arguments[2])
        block = builder.gep(_data(context, builder, signature.args[3], arguments[3]), [arguments[4]])
        levels = _data(context, builder, signature.args[5], arguments[5])
        for half in range(2):
            pair = builder.gep(block, [ir.Constant(_I64, 2 * half)])
            if _wide(context):
                vector = ir.VectorType(_I64, 2)
                found = _permuted(
                    builder, levels, builder.load(builder.bitcast(pair, vector.as_pointer()), align=8)
                )
            else:
                found = _loaded(builder, levels, builder.bitcast(pair, _I8.as_pointer()))
            _add(builder, elements, arguments[1], distance, 16 * half, found)

    return types.void(part, types.intp, ahead, words, types.intp, table), emit


@intrinsic  # type: ignore[untyped-decorator]
def eight_blocks(typing_context: Any) -> Any:
    """Return whether this processor is faster with 8 Philox blocks at once; the compiler knows."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), int(_wide(context)))

    return types.boolean(), emit


@intrinsic  # type: ignore[untyped-decorator]
def add_256_levels(
    typing_context: Any, part: Any, offset: Any, ahead: Any, counter: Any, key: Any, table: Any
) -> Any:
    """Do ``part[offset + j] += table[byte j]`` for j = 0 .. 255, of the 8 Philox blocks from a counter on.

    The counter is four uint64, of which the first is the number of the first block; the key is two.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        elements = _data(context, builder, signature.args[0], arguments[0])
        distance = _distance(context, builder, ahead, arguments[2])
        levels = _data(context, builder, signature.args[5], arguments[5])
        block, *rest = (builder.extract_value(arguments[3], i) for i in range(4))
        words_of_key = [builder.extract_value(arguments[4], i) for i in range(2)]
        words = emit_philox_8(builder, block, rest, words_of_key)
        for j in range(16):
            low, high = words[2 * (j % 2)], words[2 * (j % 2) + 1]
            lanes = ir.Constant(ir.VectorType(_I32, 2), [j // 2, 8 + j // 2])
            found = _permuted(builder, levels, builder.shuffle_vector(low, high, lanes))
            _add(builder, elements, arguments[1], distance, 16 * j, found)

    return types.void(part, types.intp, ahead, counter, key, table), emit


def _wide(context: Any) -> bool:
    return "+avx512f" in context.codegen().magic_tuple()[2].split(",")


def _loaded(builder: Any, levels: Any, indices: Any) -> Any:
    """Look 16 bytes in memory up one by one."""
    found = ir.Constant(ir.VectorType(_FLOAT, 16), ir.Undefined)
    for j in range(16):
        index = builder.zext(builder.load(builder.gep(indices, [ir.Constant(_I64, j)])), _I64)
        level = builder.load(builder.gep(levels, [index]))
        found = builder.insert_element(found, level, ir.Constant(_I32, j))
    return found


def _permuted(builder: Any, levels: Any, pair: Any) -> Any:
    """Look bytes up in 8 registers, which hold the first of each pair of levels.

    ``vpermi2ps`` of AVX-512 looks 16 times 5 bits up in 2 registers.
    """
    # the top bit of a byte, now a sign, says which one of a pair it is; turning the bits of 255 - k gives k
    byte = builder.sext(builder.bitcast(pair, _I8_16), _I32_16)
    index = builder.xor(byte, builder.ashr(byte, _sixteen(31)))
    rows = [_row(builder, levels, k) for k in range(8)]
    found = [_permute(builder, rows[k], rows[k + 1], index) for k in range(0, 8, 2)]
    for bit in (32, 64):
        upper = builder.icmp_unsigned("!=", builder.and_(index, _sixteen(bit)), _sixteen(0))
        found = [builder.select(upper, found[k + 1], found[k]) for k in range(0, len(found), 2)]
    turned = builder.xor(builder.bitcast(found[0], _I32_16), builder.and_(byte, _sixteen(1 << 31)))
    return builder.bitcast(turned, ir.VectorType(_FLOAT, 16))


def _row(builder: Any, levels: Any, k: int) -> Any:
    """Load levels 16 k .. 16 k + 15; a promise that they stay lets them stay in a register."""
    at = builder.gep(levels, [ir.Constant(_I64, 16 * k)])
    row = builder.load(builder.bitcast(at, ir.VectorType(_FLOAT, 16).as_pointer()), align=4)
    row.set_metadata("invariant.load", builder.module.add_metadata([]))
    return row


def _permute(builder: Any, low: Any, high: Any, index: Any) -> Any:
    kind = ir.FunctionType(low.type, [low.type, index.type, low.type])
    name = "llvm.x86.avx512.vpermi2var.ps.512"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [low, index, high])


def _sixteen(value: int) -> Any:
    return ir.Constant(_I32_16, [value] * 16)


@intrinsic  # type: ignore[untyped-decorator]
def add_32_signs(
    typing_context: Any, part: Any, offset: Any, ahead: Any, word: Any, low: Any, high: Any
) -> Any:
    """Do ``part[offset + j] += high if bit j of word else low`` for j = 0 .. 31."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        word, low, high = (_splat(builder, argument) for argument in arguments[3:])
        bits = builder.and_(word, ir.Constant(word.type, [1 << j for j in range(32)]))
        chosen = builder.select(
            builder.icmp_unsigned("!=", bits, ir.Constant(word.type, [0] * 32)), high, low
        )
        elements = _data(context, builder, signature.args[0], arguments[0])
        distance = _distance(context, builder, ahead, arguments[2])
        _add(builder, elements, arguments[1], distance, 0, chosen)

    return types.void(part, types.intp, ahead, types.uint32, types.float32, types.float32), emit


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return context.make_array(array_type)(context, builder, array).data


def _splat(builder: Any, scalar: Any) -> Any:
    """Return a vector of 32 times the same."""
    none = ir.Constant(ir.VectorType(scalar.type, 32), ir.Undefined)
    first = builder.insert_element(none, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(_I32, 32), [0] * 32))


def _distance(context: Any, builder: Any, kind: Any, ahead: Any) -> Any:
    """Return ``ahead`` as an i64; None where it is None."""
    return None if kind == types.none else context.cast(builder, ahead, kind, types.intp)


def _add(builder: Any, data: Any, offset: Any, ahead: Any, j: int, vector: Any) -> None:
    """Add a vector to the elements from ``offset + j`` on; they need no alignment but a float's."""
    first = builder.gep(data, [builder.add(offset, ir.Constant(_I64, j))])
    if ahead is not None:
        for line in range(0, vector.type.count, 16):
            _prefetch(builder, builder.gep(first, [builder.add(ahead, ir.Constant(_I64, line))]))
    at = builder.bitcast(first, vector.type.as_pointer())
    builder.store(builder.fadd(builder.load(at, align=4), vector), at, align=4)


def _prefetch(builder: Any, pointer: Any) -> None:
    """Ask for the cache line of an address."""
    address = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [address, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    builder.call(function, [builder.bitcast(pointer, address), read, keep, data])
