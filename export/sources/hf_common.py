"""What text and image models of Hugging Face share: own heads, configuration, the source's record."""

from __future__ import annotations

from importlib.metadata import version

from transformers import PretrainedConfig, PreTrainedModel

from zoedge.errors import InputError
from zoedge.manifest import Source

from .hf_heads import config_labels, final_labels, head_names, keeps_head, reset_head, set_labels
from .hf_load import load_pretrained, model_class
from .hf_origin import Origin
from .hf_plan import ExportPlan


def load_classifier(
    origin: Origin, config: PretrainedConfig, plan: ExportPlan, labels: tuple[str, ...]
) -> tuple[PreTrainedModel, tuple[str, ...], tuple[str, str] | None]:
    """Load a model of transformers that has a classifier of its own, with a fresh one where it doesn't fit.

    Returns:
        The model, its labels in the order of the logits (none for regression), and the names of the fresh
        head's (weight, bias) or None.

    Raises:
        InputError: the model has no classes of its own and ``labels`` is empty, or it can't be loaded.
    """
    regression = plan.task == "regression"
    headless = plan.kind == "image encoder"
    if headless and not labels:
        raise InputError(f"{config.architectures[0]} has no classes of its own: give --labels a,b,c")
    keep = config.num_labels == 1 if regression else not headless and keeps_head(config, labels)
    if keep:
        names = () if regression else final_labels(config, labels)
        if names and names != config_labels(config):
            set_labels(config, names)
        return load_pretrained(origin, plan.route, config), names, None
    set_labels(config, ("value",) if regression else labels)
    head = head_names(model_class(plan.route, config), config)
    model = load_pretrained(origin, plan.route, config, may_miss=head)
    reset_head(model, head)
    return model, labels, head


def config_file(origin: Origin, model: PreTrainedModel) -> bytes:
    """Return ``config.json``: the source's own bytes, or the new ones where its classes have changed."""
    raw = origin.file("config.json") or b""
    source = type(model.config).from_dict(origin.json("config.json") or {})
    if config_labels(source) == config_labels(model.config):
        return raw
    changed = type(model.config).from_dict({**source.to_dict(), "id2label": model.config.id2label})
    set_labels(changed, config_labels(model.config))
    changed.architectures = [type(model).__name__]
    text: str = changed.to_json_string()
    return text.encode()


def source_of(origin: Origin, config: PretrainedConfig, exporter: str) -> Source:
    """Return the manifest's record of where the model came from."""
    own = ("optimum", "optimum-onnx") if exporter == "optimum" else ("onnxscript",)
    packages = ("torch", "transformers", "onnx", *own)
    return Source(
        kind="huggingface",
        name=origin.name,
        revision=getattr(config, "_commit_hash", None) or origin.revision,
        architecture=config.architectures[0],
        versions={name: version(name) for name in packages},
    )
