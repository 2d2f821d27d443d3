"""Reads an ONNX file without its tensors' data: the data stays on disk, in a memory map.

Protobuf's own parser copies every byte into memory. This one walks the wire format (a file is a list of
fields: tag, length, bytes) down to the initializers, leaves out their ``raw_data``, and says where it lies.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from zoedge.errors import InputError

_GRAPH = 7  # ModelProto.graph
_INITIALIZER = 5  # GraphProto.initializer
_RAW_DATA = 9  # TensorProto.raw_data
_LENGTH_DELIMITED = 2
_SMALL_BYTES = 64  # data up to this size stays in the model


class Skeleton(NamedTuple):
    """A model whose larger initializers have no data, and (offset, size) of it by the initializer's index."""

    model: onnx.ModelProto
    data: dict[int, tuple[int, int]]


class _Field(NamedTuple):
    number: int
    wire: int
    start: int  # of the tag
    body: int  # of the content
    end: int


def read_skeleton(path: Path) -> Skeleton:
    """Read an ``.onnx`` file.

    Raises:
        InputError: it is missing or no ONNX model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parts: list[bytes] = []
            places: dict[int, tuple[int, int]] = {}
            for field in _fields(data, 0, len(data)):
                nested = field.number == _GRAPH and field.wire == _LENGTH_DELIMITED
                parts += (
                    _wrapped(_GRAPH, _graph(data, field, places))
                    if nested
                    else [data[field.start : field.end]]
                )
        model = onnx.ModelProto.FromString(b"".join(parts))
    except FileNotFoundError as error:
        raise InputError(f"{path} doesn't exist: give the path of an .onnx file") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (DecodeError, ValueError, IndexError) as error:
        raise InputError(f"{path} is no ONNX model or is damaged: copy or export it again") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is no ONNX model or is damaged: it has no nodes or outputs")
    return Skeleton(model, places)


def _graph(data: mmap.mmap, graph: _Field, places: dict[int, tuple[int, int]]) -> list[bytes]:
    parts: list[bytes] = []
    index = 0
    for field in _fields(data, graph.body, graph.end):
        if field.number == _INITIALIZER and field.wire == _LENGTH_DELIMITED:
            kept = []
            for inner in _fields(data, field.body, field.end):
                if inner.number == _RAW_DATA and inner.end - inner.body > _SMALL_BYTES:
                    places[index] = (inner.body, inner.end - inner.body)
                else:
                    kept.append(data[inner.start : inner.end])
            parts += _wrapped(_INITIALIZER, kept)
            index += 1
        else:
            parts.append(data[field.start : field.end])
    return parts


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, body = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            _, stop = _varint(data, body)
        elif wire == _LENGTH_DELIMITED:
            size, body = _varint(data, body)
            stop = body + size
        elif wire in (1, 5):
            stop = body + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if stop > end:
            raise ValueError("a field is longer than what holds it")
        yield _Field(tag >> 3, wire, position, body, stop)
        position = stop


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _wrapped(number: int, parts: list[bytes]) -> list[bytes]:
    """Return a length-delimited field around ``parts``."""
    size = sum(map(len, parts))
    head = bytearray([number << 3 | _LENGTH_DELIMITED])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return [bytes(head), *parts]
