"""Labels: names in the data, indices in the graph.

How a value of the data is looked up, whatever kind of file it comes from:

1. As a name: its text, without space around it, is the name of a class.
2. As true or false, in any case (``TRUE``, ``False``, or a boolean), where classes are called so.
3. As a number, by its value: ``1``, ``1.0``, ``01`` and ``"1"`` are all the class called "1", and true and false
   are 1 and 0. This goes for classes that are called by numbers, and for those that have no names.
4. As an index, from 0, where no class is called by a number and the value is a whole number.

An index into names that the data tells itself (a ``ClassLabel`` of Hugging Face's data sets) is looked up by its name
first, whatever its case: the data's order need not be the model's. Where the bundle knows none of the data's names, it
is an index.

A missing value (None, NaN, an empty text) is no label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from zoedge.errors import DataError, near
from zoedge.manifest import Manifest

from ..data.coded import Coded
from ..data.example import Array
from .fields import is_missing, short

_SHOWN = 20  # names of labels in an error message
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_TRUTH = {"true": Decimal(1), "false": Decimal(0)}
_LARGEST = 2**63  # labels are int64

Key = TypeVar("Key", str, Decimal)


class Labels:
    """The classes of a bundle.

    Attributes:
        names: their names by index; empty where the bundle has none.
        count: how many classes there are, None where the graph doesn't say.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.names = manifest.labels
        width = next(
            (port.shape[-1] for port in manifest.outputs if port.name == "logits" and port.shape), None
        )
        self.count = len(self.names) or (width if isinstance(width, int) else None)
        written = [name.strip() for name in self.names]
        self._by_name = _unique(written)
        self._by_lower = _unique(name.lower() for name in written)
        self._by_truth = _unique(name.lower() if name.lower() in _TRUTH else None for name in written)
        numbers = [_number(name) for name in written]
        if not all(number is not None for number in numbers):  # "true" beside "half-true" is no number
            numbers = [None if name.lower() in _TRUTH else _number(name) for name in written]
        self._by_number = _unique(numbers)
        self._numbered = any(number is not None for number in numbers)

    def index(self, value: object, where: str) -> int:
        """Return the class of a label as the data has it, looked up as this module says.

        Raises:
            DataError: no class is meant, or the value is a missing one.
        """
        plain = _plain(value)
        named = self._by_own_names(plain, where) if isinstance(plain, Coded) else None
        if named is not None:
            return named
        if _is_none(plain):
            raise DataError(
                f"{where} has the label {short(plain)}, a missing value: fill it in or remove the row"
            )
        text = str(plain).strip()
        found = None if isinstance(plain, bool) else self._by_name.get(text)
        if found is None:
            found = self._by_truth.get(text.lower())
        if found is None:
            found = self._by_value(text)
        if found is None:
            raise DataError(f"{where} has the label {short(plain)}, {self._why(text)}")
        return found

    def _by_own_names(self, value: Coded, where: str) -> int | None:
        """Return the class that the data's name means; None where the bundle knows none of its names."""
        known = {name: self._called(name) for name in value.names}
        if value.name is None or all(place is None for place in known.values()):
            return None
        found = known[value.name]
        if found is None:
            raise DataError(
                f"{where} has the label {value}, which its data calls {value.name!r}, {self._why(value.name)}"
            )
        return found

    def _called(self, name: str) -> int | None:
        text = name.strip()
        found = self._by_name.get(text, self._by_lower.get(text.lower()))
        return self._by_number.get(_number(text)) if found is None and self._numbered else found

    def _by_value(self, text: str) -> int | None:
        number = _number(text)
        if number is None or self._numbered:
            return self._by_number.get(number)
        if (self.names and text.lower() in _TRUTH) or number != number.to_integral_value():
            return None
        return int(number) if 0 <= number < (self.count or _LARGEST) else None

    def name(self, index: int) -> str | int:
        """Return the name of a class, or its index where the bundle has no names."""
        return self.names[index] if self.names else index

    def best(self, logits: Array) -> dict[str, Any]:
        """Return the most probable class of logits [classes] and its softmax probability."""
        exact = logits.astype(np.float64).reshape(-1)
        odds = np.exp(exact - exact.max())
        index = int(exact.argmax())
        return {"label": self.name(index), "score": float(odds[index] / odds.sum())}

    def _why(self, value: str) -> str:
        if not self.names:
            below = f" from 0 to {self.count - 1}" if self.count else ""
            return f"and this bundle's labels are whole numbers{below}: correct the data"
        shown = ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")
        no_index = "; as they are numbers, none is taken as an index" if self._numbered else ""
        return (
            f"which this bundle doesn't know{near(value, self.names)} "
            f"(it knows {shown}{no_index}): correct the data or export with --labels"
        )


def _unique(keys: Iterable[Key | None]) -> dict[Key | None, int]:
    """Return key -> position of the keys that occur once; None is no key."""
    listed = list(keys)
    counts = Counter(listed)
    return {key: place for place, key in enumerate(listed) if key is not None and counts[key] == 1}


def _plain(value: object) -> object:
    """Unwrap an array or a list of one element, as npz files with labels [n, 1] give, and bytes."""
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic | list | tuple) else None
    plain = array.reshape(()).item() if array is not None and array.size == 1 else value
    return plain.decode("utf-8", "replace") if isinstance(plain, bytes) else plain


def _is_none(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else is_missing(value)


def _number(text: str) -> Decimal | None:
    """Return the number that a text is; true and false are 1 and 0."""
    return Decimal(text) if _NUMBER.fullmatch(text) else _TRUTH.get(text.lower())
