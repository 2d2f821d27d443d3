"""An example: one row of data as the loss graph takes it, without the batch axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Example:
    """One encoded record.

    Attributes:
        inputs: graph input name -> array without the batch axis.
        targets: the same for the targets; placeholders of zeros where the record was read without labels.
        length: number of tokens, which buckets are made by; 0 where shapes are the graph's own.
        cut: number of tokens left out because the row is longer than the model takes.
    """

    inputs: Arrays
    targets: Arrays
    length: int = 0
    cut: int = 0
