"""Tasks: what the records of a data set mean. A new task is one file and one line in ``TASKS``."""

from __future__ import annotations

from collections.abc import Callable

from zoedge.bundle import Bundle
from zoedge.errors import BundleError

from .base import Task
from .classification import Classification
from .fill_mask import FillMask
from .image_classification import ImageClassification
from .label_words import LabelWords
from .regression import Regression
from .text_classification import TextClassification
from .text_generation import TextGeneration
from .text_regression import TextRegression

__all__ = ["TASKS", "Task", "task_for"]


def _text_classification(bundle: Bundle, seed: int) -> Task:
    text = bundle.manifest.text
    return LabelWords(bundle) if text is not None and text.label_word_ids else TextClassification(bundle)


def _regression(bundle: Bundle, seed: int) -> Task:
    return Regression(bundle) if bundle.manifest.text is None else TextRegression(bundle)


# by Manifest.task; the seed is the run's
TASKS: dict[str, Callable[[Bundle, int], Task]] = {
    "text-classification": _text_classification,
    "text-generation": lambda bundle, seed: TextGeneration(bundle),
    "fill-mask": FillMask,
    "image-classification": lambda bundle, seed: ImageClassification(bundle),
    "classification": lambda bundle, seed: Classification(bundle),
    "regression": _regression,
}


def task_for(bundle: Bundle, seed: int = 0) -> Task:
    """Return the task of a bundle.

    Raises:
        BundleError: this zoedge doesn't know the task, or the bundle lacks what the task needs.
    """
    make = TASKS.get(bundle.manifest.task)
    if make is None:
        raise BundleError(
            f"{bundle.folder} is for {bundle.manifest.task!r}, which this zoedge can't do: upgrade zoedge"
        )
    return make(bundle, seed)
