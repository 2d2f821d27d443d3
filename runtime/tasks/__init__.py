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
from .tokenizer import Side

__all__ = ["TASKS", "Task", "task_for"]


def _text_classification(bundle: Bundle, seed: int, side: Side | None) -> Task:
    text = bundle.manifest.text
    words = text is not None and text.label_word_ids
    return LabelWords(bundle, side) if words else TextClassification(bundle, side)


def _regression(bundle: Bundle, seed: int, side: Side | None) -> Task:
    return Regression(bundle) if bundle.manifest.text is None else TextRegression(bundle, side)


# by Manifest.task; the seed and the side on which long texts are cut are the run's
TASKS: dict[str, Callable[[Bundle, int, Side | None], Task]] = {
    "text-classification": _text_classification,
    "text-generation": lambda bundle, seed, side: TextGeneration(bundle, side),
    "fill-mask": FillMask,
    "image-classification": lambda bundle, seed, side: ImageClassification(bundle),
    "classification": lambda bundle, seed, side: Classification(bundle),
    "regression": _regression,
}


def task_for(bundle: Bundle, seed: int = 0, side: Side | None = None) -> Task:
    """Return the task of a bundle.

    Args:
        bundle: the bundle.
        seed: the run's.
        side: the end that texts lose which are longer than the model takes (``TuneOptions.truncation_side``).

    Raises:
        BundleError: this zoedge doesn't know the task, or the bundle lacks what the task needs.
    """
    make = TASKS.get(bundle.manifest.task)
    if make is None:
        raise BundleError(
            f"{bundle.folder} is for {bundle.manifest.task!r}, which this zoedge can't do: upgrade zoedge"
        )
    return make(bundle, seed, side)
