"""What to make of a Hugging Face model: which task, and by which kind of head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto as auto

from zoedge.errors import InputError, near

Kind = Literal["sequence", "causal", "masked", "image", "encoder", "image encoder"]
Route = Literal["head", "pooled", "causal", "masked", "image"]

TASKS = ("text-classification", "regression", "text-generation", "fill-mask", "image-classification")
_MAPPINGS: tuple[tuple[Kind, str], ...] = (  # in this order: some classes stand in several
    ("sequence", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    ("causal", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    ("masked", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    ("image", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
    ("encoder", "MODEL_MAPPING_NAMES"),
    ("encoder", "MODEL_FOR_PRETRAINING_MAPPING_NAMES"),
)
_CAN: dict[Kind, str] = {
    "sequence": "has a classification head",
    "causal": "is a causal language model",
    "masked": "is a masked language model",
    "image": "is an image classifier",
    "encoder": "is a text encoder without a head",
    "image encoder": "is an image encoder without a head",
}


@dataclass(frozen=True)
class ExportPlan:
    """A task, and the route to its logits.

    Routes: "head" and "image" are the model's own classifier, "pooled" a new one on the encoder's pooled
    output, "causal" and "masked" the language-model head.
    """

    task: str
    route: Route
    kind: Kind


def model_kind(config: PretrainedConfig) -> Kind:
    """Return what kind of model ``config.architectures`` names.

    Raises:
        InputError: no architecture, or one that has no classifier, language model or plain encoder.
    """
    names = config.architectures or []
    if not names:
        raise InputError(
            "config.json names no architectures: add the class of the model, as save_pretrained does"
        )
    if config.is_encoder_decoder:
        raise InputError(
            f"{names[0]} is an encoder-decoder, which isn't supported: use an encoder or a decoder"
        )
    for kind, mapping in _MAPPINGS:
        if names[0] in _classes(mapping):
            if kind != "encoder" or config.model_type in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
                return kind
            if config.model_type in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
                return "image encoder"
    if names[0] in _classes("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"):
        raise InputError(
            f"{names[0]} gives a class for each token, which is no task of zoedge (its tasks are {', '.join(TASKS)}): "
            "use the encoder that it was made from with --labels for a class per text"
        )
    raise InputError(
        f"the architecture {names[0]} isn't supported: zoedge takes classifiers, causal and masked language "
        "models and plain encoders of transformers, and any model as .onnx"
    )


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether tokens see only what stands before them."""
    kind = config.model_type
    return (
        kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def plan(
    config: PretrainedConfig, task: str | None, labels: tuple[str, ...], template: str | None
) -> ExportPlan:
    """Choose the task, unless it is given, and the route.

    Raises:
        InputError: an unknown task, one that the model can't do, or no way to tell which is meant.
    """
    kind = model_kind(config)
    name = config.architectures[0]
    if task is None:
        task = _infer(config, kind, labels, template)
    if task not in TASKS:
        fitting = [each for each in TASKS if _route(each, kind, template) is not None]
        raise InputError(
            f"a Hugging Face model has no task {task!r}, and {name} {_CAN[kind]}: use {' or '.join(fitting or TASKS)}"
            f"{near(task, fitting)}"
        )
    route = _route(task, kind, template)
    if route is None:
        want = (
            "label words need a causal or masked language model"
            if template
            else f"{task} can't be done with it"
        )
        raise InputError(f"{name} {_CAN[kind]}, and {want}: use {_possible(kind, labels, template)}")
    if labels and template is None and task not in ("text-classification", "image-classification"):
        raise InputError(f"the task {task} has no classes, and labels are given: leave --labels out")
    if config.problem_type == "multi_label_classification" and route == "head":
        raise InputError(
            f"{name} was trained for several labels at once: load it with transformers and give the module to "
            'zoedge.export.to_bundle with task="classification" and loss="bce-with-logits"'
        )
    return ExportPlan(task, route, kind)


def _classes(mapping: str) -> frozenset[str]:
    names: set[str] = set()
    for value in getattr(auto, mapping).values():
        names.update((value,) if isinstance(value, str) else value)
    return frozenset(names)


def _infer(config: PretrainedConfig, kind: Kind, labels: tuple[str, ...], template: str | None) -> str:
    if template is not None:
        return "text-classification"
    if kind == "sequence":
        return (
            "regression"
            if config.num_labels == 1 or config.problem_type == "regression"
            else "text-classification"
        )
    if kind == "image" or (kind == "image encoder" and labels):
        return "image-classification"
    if kind in ("causal", "masked") and not labels:
        return "text-generation" if kind == "causal" else "fill-mask"
    if kind == "encoder" and labels:
        return "text-classification"
    name = config.architectures[0]
    if kind in ("causal", "masked"):
        raise InputError(
            f"{name} with labels can mean a new head (--task text-classification) or label words (--template)"
        )
    raise InputError(f"{name} {_CAN[kind]}: use {_possible(kind, labels, template)}")


def _possible(kind: Kind, labels: tuple[str, ...], template: str | None) -> str:
    """Return the options of what a model can be exported for."""
    found = []
    for task in TASKS:
        route = _route(task, kind, None)
        if route is None:
            continue
        classes = task.endswith("classification")
        new = classes and not labels and (route == "pooled" or kind == "image encoder")
        kept = " --labels a,b,c" if new else " without --labels" if labels and not classes else ""
        found.append(f"--task {task}{kept}")
    return " or ".join(found) + (", without --template" if template is not None else "")


def _route(task: str, kind: Kind, template: str | None) -> Route | None:
    if template is not None:
        return kind if task == "text-classification" and kind in ("causal", "masked") else None
    match task, kind:
        case (("text-classification" | "regression"), "sequence"):
            return "head"
        case (("text-classification" | "regression"), ("encoder" | "causal" | "masked")):
            return "pooled"
        case "text-generation", "causal":
            return "causal"
        case "fill-mask", "masked":
            return "masked"
        case "image-classification", ("image" | "image encoder"):
            return "image"
        case _:
            return None
