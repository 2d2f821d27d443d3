"""Regression by any graph: inputs as arrays or columns, one or several numbers as the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoedge.bundle import Bundle

from ..data.example import Array, Example
from ..data.facts import TargetScale
from ..data.record import Record
from . import fields
from .arrays import fitted, inputs_of, label_keys
from .base import Task
from .classification import placeholder


class Regression:
    """Records with the graph's inputs and ``label``: a number or a list of them."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return the graph's inputs, and labels float32 of the output's shape."""
        ports = self._manifest.inputs
        (target,) = self._manifest.targets
        inputs = inputs_of(record, ports)
        if not labelled:
            return Example(inputs, {target.name: placeholder(target.shape, target.dtype)})
        label = fields.label(record, label_keys(ports))
        return Example(inputs, {target.name: fitted(label, target, record.where)})

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``value``: a number, or a list of them."""
        logits = outputs["logits"]
        return {"value": float(logits.reshape(())) if logits.size == 1 else logits.tolist()}


class Standardised:
    """A regression task whose targets come as (target - mean) / std, float32."""

    def __init__(self, task: Task, scale: TargetScale) -> None:
        self._task, self._scale = task, scale

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return the task's example with its targets standardised."""
        example = self._task.encode(record, labelled=labelled)
        if not labelled:
            return example
        targets = {name: self._scale.standardised(target) for name, target in example.targets.items()}
        return replace(example, targets=targets)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return what the task tells, in the user's units."""
        return self._task.prediction(
            example, dict(outputs) | {"logits": self._scale.restored(outputs["logits"])}
        )
