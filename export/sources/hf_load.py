"""A Hugging Face model in memory: float32, eager attention, eval mode, nothing silently initialised."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as progress

from zoedge.errors import InputError

from .hf_origin import Origin
from .hf_plan import Route
from .quiet import quiet

_AUTO = {
    "head": transformers.AutoModelForSequenceClassification,
    "causal": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
    "image": transformers.AutoModelForImageClassification,
}


def model_class(route: Route, config: PretrainedConfig) -> Any:
    """Return the class whose ``from_pretrained`` makes the model of a route."""
    return getattr(transformers, config.architectures[0]) if route == "pooled" else _AUTO[route]


def load_pretrained(
    origin: Origin, route: Route, config: PretrainedConfig, may_miss: Container[str] = ()
) -> PreTrainedModel:
    """Load the model.

    Args:
        origin: where it lies.
        route: decides the class.
        config: its configuration, with changes to it (another number of classes).
        may_miss: names of the head that is new anyway; everything else must come from the files.

    Raises:
        InputError: no weights, damaged ones, or tensors missing.
    """
    bars = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with quiet():
            model, report = model_class(route, config).from_pretrained(
                origin.address,
                config=config,
                revision=origin.revision,
                dtype=torch.float32,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,  # checked below, where the message can say what to do
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the weights of {origin.address} can't be loaded: {first}") from error
    finally:
        if bars:
            progress.enable_progress_bar()
    _check(origin, model, report, may_miss)
    model.config.use_cache = False
    return model.eval()


def tied_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the names that ``save_pretrained`` drops because another name holds the same tensor."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "_tied_weights_keys", None) or ()
    )


def _check(origin: Origin, model: PreTrainedModel, report: dict[str, Any], may_miss: Container[str]) -> None:
    # older versions give (name, shape, shape)
    wrong = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    for what, names in (("has no tensor", report["missing_keys"]), ("has another shape for", wrong)):
        bad = [name for name in names if name not in may_miss]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise InputError(
                f"{origin.address} {what} {bad[0]}{more}, which {type(model).__name__} needs: "
                "choose the task that the model was trained for, or a complete checkpoint"
            )
