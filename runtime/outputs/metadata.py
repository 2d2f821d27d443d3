"""Metadata of an ONNX file, added without a parser: protobuf takes fields in any order, so they go to the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

FEATURE_NAMES = "feature_names"  # a JSON list: the columns that the only input is made of
_METADATA = 14  # ModelProto.metadata_props, each an entry of key = 1 and value = 2


def add_feature_names(path: Path, names: Sequence[str]) -> None:
    """Tell in an ``.onnx`` file which columns its input is made of; no names leave it as it is."""
    if not names:
        return
    entry = _field(1, FEATURE_NAMES.encode()) + _field(2, json.dumps(list(names)).encode())
    with path.open("ab") as file:
        file.write(_field(_METADATA, entry))


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content
