"""The names of a model's features, where an ONNX file tells them in its metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import onnx

from zoedge.manifest import Port

KEYS = ("feature_names", "feature_names_in", "feature_names_in_", "columns")


def feature_names(
    model: onnx.ModelProto, ports: Sequence[Port], say: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the names of the only input's elements in order; () where the file doesn't tell.

    They are a JSON list, or names with commas between them, under one of ``KEYS``. Names that don't fit the
    input are left out, which is said. Those that merely count, as merging writes of a table without a header line,
    tell nothing.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    key = next((key for key in KEYS if entries.get(key, "").strip()), None)
    if key is None or len(ports) != 1:
        return ()
    names = _parsed(entries[key])
    shape = ports[0].shape[1:]
    fixed = [dim for dim in shape if isinstance(dim, int)]
    if len(fixed) != len(shape) or len(names) != math.prod(fixed) or len(set(names)) != len(names):
        say(
            f"the metadata {key} names {len(names)} columns, which don't fit the input {ports[0].name} of shape "
            f"{list(shape)}: they are left out"
        )
        return ()
    counted = (tuple(str(start + place) for place in range(len(names))) for start in (0, 1))
    return () if names in counted else names


def _parsed(text: str) -> tuple[str, ...]:
    try:
        value = json.loads(text)
    except ValueError:
        value = text.split(",")
    return tuple(str(name).strip() for name in value) if isinstance(value, list) else ()
