"""Makes the onnxruntime of a virtual environment run as on an x86-64 processor with AVX2 and nothing newer.

    python tests/older_processor.py SITE_PACKAGES

onnxruntime asks the processor itself which kernels it may use and has no switch for it. This rewrites those places of
its library: where it executes CPUID with leaf 7 (AVX-512, VNNI, AMX, AVX-VNNI are told there), it calls a routine that
does the same and clears these bits. The routine is put into the unused end of the last page of code. ``make older``
does this to an environment of its own; a library whose code doesn't look as expected is left alone, with an error.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

_EXECUTABLE, _LOAD, _PAGE = 1, 1, 4096
# AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL
_EBX = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31
# AVX-512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; GFNI, VAES, VPCLMULQDQ
_ECX = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 8 | 1 << 9 | 1 << 10
# AVX-512 4VNNIW, 4FMAPS, VP2INTERSECT, FP16; AMX BF16, TILE, INT8
_EDX = 1 << 2 | 1 << 3 | 1 << 8 | 1 << 23 | 1 << 22 | 1 << 24 | 1 << 25
_CPUID = b"\x0f\xa2"
_LEAF_7 = b"\xb8\x07\x00\x00\x00"  # mov eax, 7
_SUBLEAF_1 = b"\xb9\x01\x00\x00\x00"  # mov ecx, 1
_BY_REGISTERS = b"\x44\x89\xc0\x89\xf1"  # mov eax, r8d; mov ecx, esi


def routine() -> bytes:
    """Return code that expects the leaf in eax and the subleaf in ecx, and returns as CPUID does."""

    def masked(opcode: bytes, cleared: int) -> bytes:
        return opcode + struct.pack("<I", ~cleared & 0xFFFFFFFF)

    zeros = b"\x31\xc0\x31\xdb\x31\xc9\x31\xd2\xc3"  # xor eax, eax; ebx; ecx; edx; ret
    answer = (
        _CPUID
        + masked(b"\x81\xe3", _EBX)  # and ebx, ...
        + masked(b"\x81\xe1", _ECX)
        + masked(b"\x81\xe2", _EDX)
        + b"\xc3"
    )
    first = b"\x83\xf9\x01\x74" + bytes([len(answer)])  # cmp ecx, 1; je zeros
    return first + answer + zeros


def rewritten(library: bytes) -> tuple[bytes, int]:
    """Return a library that hides newer instructions from itself, and how many places were changed.

    Raises:
        ValueError: it isn't built as expected.
    """
    segment = _code(library)
    end = segment[1]
    room = -(-end // _PAGE) * _PAGE - end
    entries = {
        _LEAF_7: _LEAF_7,
        _LEAF_7 + _SUBLEAF_1: _LEAF_7 + _SUBLEAF_1,
        _BY_REGISTERS: _BY_REGISTERS,
    }
    common = routine()
    code, at = bytearray(common), {}
    for pattern, setup in entries.items():
        at[pattern] = len(code)
        code += setup + b"\xe9" + struct.pack("<i", -(len(code) + len(setup) + 5))  # jmp to the common part
    if len(code) > room or any(library[end : end + len(code)]):
        raise ValueError("there is no room behind its code")
    changed, count = bytearray(library), 0
    changed[end : end + len(code)] = code
    for pattern, entry in at.items():
        for match in re.finditer(re.escape(pattern + _CPUID), library[: segment[1]]):
            place, length = match.start(), len(pattern) + len(_CPUID)
            call = b"\xe8" + struct.pack("<i", end + entry - (place + 5))
            changed[place : place + length] = call.ljust(length, b"\x90")
            count += 1
    if count < 2:
        raise ValueError(f"CPUID is asked in {count} known ways")
    return bytes(changed), count


def _code(library: bytes) -> tuple[int, int]:
    """Return where the executable segment begins and ends in the file, where both are as in memory."""
    (offset,) = struct.unpack_from("<Q", library, 32)
    size, number = struct.unpack_from("<HH", library, 54)
    for index in range(number):
        kind, flags, start, address, _, length, _, _ = struct.unpack_from(
            "<IIQQQQQQ", library, offset + index * size
        )
        if kind == _LOAD and flags & _EXECUTABLE:
            if start != address:
                raise ValueError("its code lies elsewhere in memory than in the file")
            return start, start + length
    raise ValueError("it has no code")


def main() -> None:
    """Rewrite the library of the environment that is named."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = list(Path(sys.argv[1]).glob("onnxruntime/capi/onnxruntime_pybind11_state*.so"))
    if len(found) != 1:
        sys.exit(f"{sys.argv[1]} holds no onnxruntime")
    try:
        changed, count = rewritten(found[0].read_bytes())
    except ValueError as error:
        sys.exit(f"{found[0]} can't be made to run as on an older processor: {error}")
    found[0].write_bytes(changed)
    print(f"{found[0].name}: {count} questions to the processor are answered as by an older one")


if __name__ == "__main__":
    main()
