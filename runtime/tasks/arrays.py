"""Records as the inputs of any graph: fields by name, or the columns of a table in their order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.errors import DataError
from zoedge.manifest import Port

from ..data.example import Array, Arrays
from ..data.record import Record
from . import fields

_SHOWN = 8  # names in an error


def inputs_of(record: Record, ports: tuple[Port, ...]) -> Arrays:
    """Return an array without the batch axis for each graph input.

    Fields that are called like the inputs are taken. Where the graph has one input and no field is called
    so, it is the only array besides the label, else the numbers of all other columns in order.

    Raises:
        DataError: an input is missing, or its shape, its size or a value doesn't fit.
    """
    names = [port.name for port in ports]
    present = [name for name in names if name in record.fields]
    if len(present) == len(names):
        return {port.name: fitted(record.fields[port.name], port, record.where) for port in ports}
    if present or len(ports) > 1:
        absent = [name for name in names if name not in record.fields]
        raise fields.missing(
            record, f"input {absent[0]!r}", names, "name columns or arrays like the graph's inputs"
        )
    (port,) = ports
    return {port.name: _only(record, port)}


def label_keys(ports: tuple[Port, ...]) -> tuple[str, ...]:
    """Return the usual names of a label that aren't graph inputs."""
    taken = {port.name for port in ports}
    return tuple(key for key in fields.LABEL_KEYS if key not in taken)


def fitted(value: object, port: Port, where: str) -> Array:
    """Return a value as an array of a port's dtype and shape, without the batch axis.

    Axes of size 1 are added or dropped as needed, and a flat list of the right size fills a fixed shape row
    by row.

    Raises:
        DataError: it doesn't fit.
    """
    array = _numeric(value, port, where)
    shape = port.shape[1:]
    if len(array.shape) == len(shape) and all(
        d == n or isinstance(d, str) for d, n in zip(shape, array.shape, strict=True)
    ):
        return array
    fixed = tuple(dim for dim in shape if isinstance(dim, int))
    same = [n for n in array.shape if n != 1] == [n for n in fixed if n != 1]
    if len(fixed) == len(shape) and (same or (array.ndim == 1 and array.size == math.prod(fixed))):
        return array.reshape(fixed)
    raise DataError(
        f"{where} has an array of shape {list(array.shape)} for {port.name}, which takes "
        f"{list(shape)}: reshape the data or export for this shape"
    )


def _only(record: Record, port: Port) -> Array:
    label = fields.find_field(record, label_keys((port,)))
    others = {name: value for name, value in record.fields.items() if name != label}
    arrays = [value for value in others.values() if isinstance(value, np.ndarray | list)]
    if len(arrays) == 1:
        return fitted(arrays[0], port, record.where)
    if fields.is_text(record) or len(arrays) > 1:
        raise fields.missing(
            record, f"input {port.name!r}", (port.name,), "name columns or arrays like the graph's inputs"
        )
    return _columns(others, port, record.where)


def _columns(columns: Mapping[str, Any], port: Port, where: str) -> Array:
    """Return the numbers of a table's row as one input."""
    numbers = {name: one for name, value in columns.items() if (one := number(value)) is not None}
    shape = port.shape[1:]
    wanted = math.prod(dim for dim in shape if isinstance(dim, int))
    if any(isinstance(dim, str) for dim in shape) or len(numbers) != wanted:
        rest = [f"{name} = {fields.short(columns[name])}" for name in columns if name not in numbers]
        aside = f" (not numbers: {', '.join(rest[:3])})" if rest else ""
        found = (
            f": {', '.join(list(numbers)[:_SHOWN])}{', ...' if len(numbers) > _SHOWN else ''}"
            if numbers
            else ""
        )
        remedies = (fields.comma_remedy(value) for name, value in columns.items() if name not in numbers)
        first = next((f"{remedy}, " for remedy in remedies if remedy), "")
        raise DataError(
            f"{where} has {len(numbers)} columns of numbers besides the label{found}{aside}, and the input "
            f"{port.name} takes {'x'.join(map(str, shape)) or 1}: {first}give one column for each value and no more, "
            "and name the target's with --label-key where it is called otherwise than label or target"
        )
    return fitted(list(numbers.values()), port, where)


def number(value: object) -> float | None:
    """Return the number that a field of a table holds; None where it holds something else."""
    if not isinstance(value, str | int | float | np.generic) or (isinstance(value, str) and "_" in value):
        return None  # "1_000" is a number to Python alone
    try:
        return float(value)
    except ValueError:
        return None


def _numeric(value: object, port: Port, where: str) -> Array:
    """Return a value as an array of the port's dtype, refusing text, ragged lists and lost fractions."""
    dtype = np.dtype(port.dtype)
    try:
        array = np.asarray(value)
        if array.dtype.kind in "USO" and any(isinstance(t, str) and "_" in t for t in array.ravel()):
            raise ValueError("digits with underscores, which are a number to Python alone")
        converted = array.astype(np.float64) if array.dtype.kind in "USO" else array
        with np.errstate(over="ignore", invalid="ignore"):  # what doesn't survive is refused below
            result = converted.astype(dtype, casting="unsafe")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where} has {fields.short(value)} for {port.name}, which takes numbers: "
            f"{fields.comma_remedy(value) or 'correct the value'}"
        ) from error
    if dtype.kind == "f" and not np.isfinite(result).all():
        raise DataError(
            f"{where} has {fields.short(value)} for {port.name}, which is no finite {dtype}: correct it"
        )
    if dtype.kind in "iu" and not np.array_equal(result, converted):
        raise DataError(
            f"{where} has {fields.short(value)} for {port.name}, which takes whole numbers: correct the value"
        )
    return result
