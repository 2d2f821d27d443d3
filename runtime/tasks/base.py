"""What a task is: how its records become examples, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..data.example import Array, Example
from ..data.record import Record


class Task(Protocol):
    """Records to examples, outputs to predictions. Metrics go by the loss: ``losses.metrics.METRICS``."""

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return the example of a record.

        Args:
            record: one row of the data.
            labelled: False for prediction: labels aren't looked for, and targets are placeholders.

        Raises:
            DataError: the record isn't one of this task, or its label isn't known.
        """

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return what to tell the user about one row.

        Args:
            example: the row.
            outputs: the loss graph's outputs for it, without the batch axis.
        """
