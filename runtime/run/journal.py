"""The journal: an append-only file of small records from which a run is rebuilt bit for bit.

    file    = magic, frame(header as JSON), frame(record)*
    frame   = LEB128 length of the payload, CRC32 of the payload (little-endian), payload

    step    0x01  u32 step  f32 lr  f64 answer * points        what one step measured and chose
    assign  0x02  u32 step  msgpack [{"slot/name": float32 bytes}, {metric: float64}]
                            values that tuning computed (heads), and what they scored
    eval    0x03  u32 step  msgpack {metric: float64}           what an evaluation said

All integers and floats are little-endian. A step's record is written after its answers are known and before
the parameters move. A crash may tear the last record, which is then left out; damage with good records
behind it is no crash's doing, and an error.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoedge.errors import BundleError
from zoedge.files import new_file

from ..records import Assign, Eval, Header, Record, Step

MAGIC = b"zoedge journal 1\n"
JOURNAL_FILE = "journal.zoj"

_STEP, _ASSIGN, _EVAL = 1, 2, 3
_MAX_FRAME_BYTES = 1 << 31
_LEAST_RECORD_BYTES = 5  # kind and step
# where a record may begin: length, checksum, kind
_BEGINNING = re.compile(rb"(?=[\x80-\xff]{0,4}[\x00-\x7f].{4}[\x01-\x03])", re.DOTALL)


def encode_record(record: Record) -> bytes:
    """Return the payload of a record."""
    match record:
        case Step(step, lr, answers):
            return struct.pack(f"<BIf{len(answers)}d", _STEP, step, lr, *answers)
        case Assign(step, slots, metrics):
            raw = {
                f"{slot}/{name}": np.ascontiguousarray(value, "<f4").tobytes()
                for slot, values in sorted(slots.items())
                for name, value in sorted(values.items())
            }
            return struct.pack("<BI", _ASSIGN, step) + msgspec.msgpack.encode((raw, metrics))
        case Eval(step, metrics):
            return struct.pack("<BI", _EVAL, step) + msgspec.msgpack.encode(metrics)


def decode(payload: bytes) -> Record:
    """Return the record of a payload; assigned values come flat.

    Raises:
        ValueError: the payload is no record.
    """
    kind = payload[0] if payload else 0
    if kind == _STEP and len(payload) >= 9:
        count = (len(payload) - 9) // 8
        step, lr, *answers = struct.unpack(f"<If{count}d", payload[1:])
        return Step(step, lr, tuple(answers))
    if kind == _ASSIGN and len(payload) > 5:
        (step,) = struct.unpack("<I", payload[1:5])
        raw, metrics = msgspec.msgpack.decode(payload[5:], type=_Assigned)
        return Assign(step, _slots(raw), metrics)
    if kind == _EVAL and len(payload) > 5:
        (step,) = struct.unpack("<I", payload[1:5])
        return Eval(step, msgspec.msgpack.decode(payload[5:], type=dict[str, float]))
    raise ValueError(f"{len(payload)} bytes of kind {kind} are no record")


_Assigned = tuple[dict[str, bytes], dict[str, float] | None]


class Journal:
    """An open journal, ready to append."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    @classmethod
    def create(cls, path: Path, header: Header) -> Journal:
        """Start a journal, whole with its header or not at all.

        Raises:
            FileExistsError: there is one already.
        """
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        with new_file(path) as temporary:
            temporary.write_bytes(MAGIC + _frame(msgspec.json.encode(header)))
        return cls.reopen(path, path.stat().st_size)

    @classmethod
    def reopen(cls, path: Path, size: int) -> Journal:
        """Continue a journal after its first ``size`` bytes, cutting whatever follows."""
        file = path.open("r+b")
        file.truncate(size)
        file.seek(size)
        return cls(file)

    def append(self, record: Record) -> None:
        """Write a record through to the operating system: it survives the process being killed."""
        self._file.write(_frame(encode_record(record)))
        self._file.flush()

    def sync(self) -> None:
        """Force what was written onto the disk: it survives a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


class Contents(NamedTuple):
    """A journal read whole; ``size`` bytes of it are good and ``torn`` bytes behind them are not."""

    header: Header
    records: list[Record]
    size: int
    torn: int


def read_journal(path: Path) -> Contents:
    """Read a journal up to its last good record.

    Raises:
        BundleError: no journal there, another format, a damaged header, or damage before good records.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing: {path.parent} is not a run folder of zoedge tune")
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise BundleError(
            f"{path} is not a journal that this zoedge reads: upgrade zoedge or restore the file"
        )
    frames = _frames(data, len(MAGIC))
    try:
        raw_header, size = next(frames)
        header = msgspec.json.decode(raw_header, type=Header)
    except (StopIteration, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} has a damaged header: restore the file or start a new run") from error
    records: list[Record] = []
    for payload, end in frames:
        try:
            records.append(decode(payload))
        except (ValueError, msgspec.MsgspecError) as error:  # its checksum holds: this is what was written
            raise BundleError(
                f"{path} has a record that this zoedge doesn't know, number {len(records) + 1} at byte {size}: "
                f"upgrade zoedge"
            ) from error
        size = end
    if _holds_a_record(data, size + 1, records[-1].step if records else 0):
        raise BundleError(
            f"{path} is damaged in record {len(records) + 1} at byte {size}, with good records behind it: restore "
            f"the file, or keep what lies before the damage with truncate -s {size} {path}"
        )
    return Contents(header, records, size, len(data) - size)


def _holds_a_record(data: bytes, start: int, last_step: int) -> bool:
    """Return whether a whole record lies anywhere in ``data[start:]``, ``last_step`` being the last one's step.

    A chance hit needs a right checksum, kind and step; most offsets are ruled out before the checksum is taken.
    """
    most = last_step + len(data) - start  # a step takes more than a byte
    for match in _BEGINNING.finditer(data, start):
        extent = _extent(data, match.start())
        if extent is None or extent[1] - extent[0] < _LEAST_RECORD_BYTES:
            continue
        (step,) = struct.unpack_from("<I", data, extent[0] + 1)
        if last_step <= step <= most and _is_good(data, *extent):
            return True
    return False


def _slots(raw: dict[str, bytes]) -> dict[int, dict[str, NDArray[np.float32]]]:
    slots: dict[int, dict[str, NDArray[np.float32]]] = {}
    for key, value in raw.items():
        slot, _, name = key.partition("/")
        slots.setdefault(int(slot), {})[name] = np.frombuffer(value, "<f4").astype(np.float32)
    return slots


def _frame(payload: bytes) -> bytes:
    length, prefix = len(payload), bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + struct.pack("<I", zlib.crc32(payload)) + payload


def _frames(data: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield (payload, end offset) of each good frame, stopping at the first that is torn or damaged."""
    while (extent := _extent(data, start)) is not None and _is_good(data, *extent):
        yield data[slice(*extent)], extent[1]
        start = extent[1]


def _extent(data: bytes, start: int) -> tuple[int, int] | None:
    """Return where the payload of the frame at ``start`` begins and ends; None if not within ``data``."""
    length, shift, position = 0, 0, start
    while position < len(data) and shift < 35:
        byte = data[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    else:
        return None
    begin, end = position + 4, position + 4 + length
    return (begin, end) if length <= _MAX_FRAME_BYTES and end <= len(data) else None


def _is_good(data: bytes, begin: int, end: int) -> bool:
    """Return whether the checksum before a payload is the payload's."""
    return zlib.crc32(memoryview(data)[begin:end]) == int.from_bytes(data[begin - 4 : begin], "little")
