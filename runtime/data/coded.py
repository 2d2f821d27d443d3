"""Class indices of data that tells its classes' names itself, as Hugging Face data sets do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

Names = Mapping[str, tuple[str, ...]]  # field -> names of its classes

_METADATA = b"huggingface"  # of the schema of Arrow and Parquet files


class Coded(int):
    """A class by its index among the data's own names, whose order need not be the model's."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, value: Any, names: tuple[str, ...]) -> Any:
        """Return the value with the names; itself where it is no whole number."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return value
        coded = cls(value)
        coded.names = names
        return coded

    @property
    def name(self) -> str | None:
        """The name of the class; None for -1, as rows without a label have it, and for what is no index."""
        return self.names[self] if 0 <= self < len(self.names) else None


def class_names(data: Any) -> Names:
    """Return the class names that a ``datasets.Dataset`` or a pyarrow ``Table`` knows of its fields."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        found = {str(name): getattr(feature, "names", None) for name, feature in features.items()}
    else:
        found = _of_schema(getattr(getattr(data, "schema", None), "metadata", None))
    return {
        name: tuple(map(str, names))
        for name, names in found.items()
        if isinstance(names, list | tuple) and names
    }


def _of_schema(metadata: Any) -> dict[str, Any]:
    with suppress(Exception):  # metadata of any other writer
        features = json.loads(metadata[_METADATA])["info"]["features"]
        return {name: feature.get("names") for name, feature in features.items()}
    return {}


def with_names(fields: Mapping[Any, Any], names: Names) -> Mapping[Any, Any]:
    """Return a row in which class indices know their names."""
    coded = {field: Coded.of(fields[field], own) for field, own in names.items() if field in fields}
    return {**fields, **coded} if coded else fields
