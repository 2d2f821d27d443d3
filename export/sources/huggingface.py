"""Source 1: a Hugging Face folder or hub id, exported by torch under the checkpoint's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoedge.errors import InputError

from .packages import need

if TYPE_CHECKING:
    from zoedge.export.exported import Exported


def from_huggingface(
    model: str | Path,
    *,
    task: str | None = None,
    labels: tuple[str, ...] = (),
    template: str | None = None,
    max_seq_length: int | None = None,
    revision: str | None = None,
    exporter: str = "torch",
) -> Exported:
    """Export a Hugging Face model to one graph, model inputs -> logits.

    Args:
        model: a folder that ``save_pretrained`` wrote, or a hub id.
        task: text-classification, regression, text-generation, fill-mask or image-classification; None reads
            it from the architecture.
        labels: class names. A trained head is kept where they name its own classes (or give names to classes
            that have none) and is replaced by a fresh one where they name others. With a template they are
            the label words.
        template: "{text} It was {label}": classification by label words with a causal or masked model.
        max_seq_length: longest text in tokens; cut to what the model takes. None: 512 or the model's limit.
        revision: branch, tag or commit on the hub.
        exporter: torch or optimum.

    Returns:
        The graph with dynamic "batch" and "sequence", and the tensors under the names that
        ``save_pretrained`` gives them.

    Raises:
        InputError: the model can't be found, loaded or exported, or the options don't fit it.
        MissingPackageError: torch or transformers isn't installed.
    """
    need("torch", "onnx", "onnxscript", "transformers", purpose="exporting a Hugging Face model")
    if exporter == "optimum":
        need(
            "optimum",
            "optimum.exporters",
            "optimum.exporters.onnx",
            purpose="--exporter optimum",
            extra="optimum",
        )
    from .hf_image_model import export_image_model
    from .hf_origin import locate, read_config
    from .hf_plan import plan
    from .hf_text_model import export_text_model

    if len(set(labels)) != len(labels):
        raise InputError(f"--labels {','.join(labels)} names a class twice: give each class its own name")
    if len(labels) == 1:
        raise InputError(
            f"--labels {labels[0]} is a single class: give two or more, or --task regression without labels"
        )
    origin = locate(model, revision)
    config = read_config(origin)
    chosen = plan(config, task, labels, template)
    if chosen.route == "image":
        return export_image_model(origin, config, chosen, labels, exporter)
    return export_text_model(origin, config, chosen, labels, template, max_seq_length, exporter)
