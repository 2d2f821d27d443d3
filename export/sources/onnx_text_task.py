"""What a text model's ``.onnx`` file can be tuned for, as its outputs show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError, near

from ..ports import find_value, port_of
from .onnx_text_inputs import IDS, MASK
from .onnx_tokenizer import OnnxTokenizer

if TYPE_CHECKING:
    from zoedge.export.exported import Exported

CLASSIFICATION, REGRESSION, GENERATION, FILL_MASK = (
    "text-classification",
    "regression",
    "text-generation",
    "fill-mask",
)
TASKS = (CLASSIFICATION, REGRESSION, GENERATION, FILL_MASK)
ARRAYS = "classification"  # the task whose rows are arrays, tokenizer or not
_CAUSAL = 1e-3  # of the largest logit: less is rounding


def choose_text_task(
    exported: Exported, tokenizer: OnnxTokenizer, task: str | None, template: str | None, file: str
) -> str:
    """Return the task: the one that is asked for if the outputs allow it, or theirs.

    Raises:
        InputError: they don't, or the options contradict each other.
    """
    if task is not None and task not in TASKS:
        raise InputError(
            f"a text model's .onnx file has no task {task!r}: use one of {', '.join(TASKS)}, or {ARRAYS} for "
            f"rows of arrays{near(task, TASKS)}"
        )
    shape = port_of(find_value(exported.model, exported.logits)).shape
    if len(shape) == 3:
        own = _of_tokens(exported, tokenizer, shape[-1], file)
    else:
        own = REGRESSION if exported.task == REGRESSION else CLASSIFICATION
        _check_single(tokenizer.config, exported.loss, file)
    if template is not None:
        if len(shape) != 3 or task not in (None, CLASSIFICATION):
            raise InputError(
                f"label words need the task {CLASSIFICATION} and the logits of a language model, and {exported.logits} "
                f"of {file} has the shape {list(shape)}: leave --template out"
            )
        return CLASSIFICATION
    if task not in (None, own):
        words = (
            ", or --task text-classification with --template and --labels for label words"
            if len(shape) == 3
            else ""
        )
        raise InputError(f"{file} gives what {own} needs, and not {task}: use --task {own}{words}")
    return own


def _of_tokens(exported: Exported, tokenizer: OnnxTokenizer, width: int | str, file: str) -> str:
    known = tokenizer.config.get("vocab_size")
    words = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True)
    if not isinstance(width, int) or (width != known and width < words):
        raise InputError(
            f"{exported.logits} of {file} gives {width} numbers for each token and the vocabulary has {words} words, "
            "so it is no language model, and a class for each token is no task of zoedge: export the model it was made "
            "from (its folder or hub id) with --labels for a new head, or --output-name where it has logits besides"
        )
    return GENERATION if is_causal_text(exported) else FILL_MASK


def is_causal_text(exported: Exported) -> bool:
    """Whether tokens see only what stands before them: the last one is changed, and nothing before it moves."""
    rng = np.random.default_rng(3)
    inputs, fresh = (exported.sample_inputs(rng, 4, 8) for _ in range(2))
    inputs = {**inputs, MASK: np.ones_like(inputs[IDS])}
    other = {**inputs, IDS: np.concatenate([inputs[IDS][:, :-1], fresh[IDS][:, -1:]], axis=1)}
    first, second = (exported.reference(given)[exported.logits][:, :-1] for given in (inputs, other))
    return bool(np.abs(first - second).max() <= _CAUSAL * max(1e-3, float(np.abs(first).max())))


def is_regression(config: dict[str, Any], loss: str | None) -> bool:
    """Whether the configuration, or the loss that is asked for, means numbers and no classes."""
    names = config.get("id2label")
    single = isinstance(names, dict) and len(names) == 1
    return loss == "mse" or (loss is None and (config.get("problem_type") == "regression" or single))


def _check_single(config: dict[str, Any], loss: str, file: str) -> None:
    if config.get("problem_type") == "multi_label_classification" or loss == "bce-with-logits":
        raise InputError(
            f"{file} is for several labels at once, which rows of text can't tell: give --task {ARRAYS} --loss "
            "bce-with-logits and arrays named like its inputs"
        )
