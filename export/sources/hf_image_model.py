"""Image classifiers of Hugging Face: pixel values -> logits."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PretrainedConfig

from zoedge.export.exported import Exported

from .hf_common import config_file, load_classifier, source_of
from .hf_image import PREPROCESSOR_FILE, image_settings
from .hf_load import tied_names
from .hf_origin import Origin
from .hf_plan import ExportPlan
from .samples import image_samples
from .torch_graph import LOGITS, trace
from .torch_reference import reference_of
from .torch_state import collect, free_name

PIXELS = "pixel_values"


def export_image_model(
    origin: Origin, config: PretrainedConfig, plan: ExportPlan, labels: tuple[str, ...], exporter: str
) -> Exported:
    """Export a classifier with a dynamic batch and the source's own image size.

    Raises:
        InputError: see ``from_huggingface``.
    """
    image = image_settings(origin, config)
    source = source_of(origin, config, exporter)
    model, names, head = load_classifier(origin, config, plan, labels)
    state = collect(model, secondary=tied_names(model))
    sample = image_samples(image, PIXELS)
    example = {PIXELS: torch.from_numpy(sample(np.random.default_rng(0), 2, 0)[PIXELS])}
    logits = free_name(LOGITS, state)
    dims = {PIXELS: {0: "batch"}}
    graph = trace(model, state, example, dims, called=logits, output_dims=("batch", len(names)))
    return Exported(
        model=graph.model,
        weights=graph.weights,
        parameters=graph.parameters,
        tied=state.tied,
        lookups=state.lookups,
        task=plan.task,
        loss="cross-entropy",
        logits=logits,
        labels=names,
        image=image,
        source=source,
        fresh_head=head,
        files={
            "config.json": config_file(origin, model),
            PREPROCESSOR_FILE: origin.file(PREPROCESSOR_FILE) or b"",
        },
        reference=reference_of(
            model, head=None if head is None else head[0].rpartition(".")[0], called=logits
        ),
        sample_inputs=sample,
    )
