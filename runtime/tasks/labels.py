"""Labels: names in the data, indices in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoedge.errors import DataError, near
from zoedge.manifest import Manifest

from ..data.example import Array
from .fields import short

_SHOWN = 20  # names of labels in an error message


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
        self._index = {name: index for index, name in enumerate(self.names)}

    def index(self, value: object, where: str) -> int:
        """Return the class of a label as the data has it: a name first, else an index.

        Raises:
            DataError: neither.
        """
        plain = _plain(value)
        if not isinstance(plain, bool) and str(plain).strip() in self._index:
            return self._index[str(plain).strip()]
        number = _whole(plain)
        if number is not None and 0 <= number < (self.count or number + 1):
            return number
        raise DataError(f"{where} has the label {short(plain)}, {self._why(str(plain))}")

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
        return (
            f"which this bundle doesn't know{near(value, self.names)} "
            f"(it knows {shown}): correct the data or export with --labels"
        )


def _plain(value: object) -> object:
    """Unwrap an array or a list of one element, as npz files with labels [n, 1] give."""
    array = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else None
    return array.reshape(()).item() if array is not None and array.size == 1 else value


def _whole(value: object) -> int | None:
    if not isinstance(value, str | int | float | np.generic):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
