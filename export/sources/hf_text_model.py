"""Text models of Hugging Face: token ids -> logits, by their own head, a new one, or label words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from zoedge.errors import InputError
from zoedge.export.exported import Exported
from zoedge.manifest import Dim

from .hf_common import config_file, load_classifier, source_of
from .hf_load import load_pretrained, tied_names
from .hf_origin import Origin
from .hf_plan import ExportPlan, is_causal
from .hf_text import input_names, plain_ids, positions, text_settings
from .label_words import check_template, label_word_ids
from .pooling import CLASSIFIER, PooledClassifier, declared_pooling, source_name
from .samples import text_samples
from .tokenizer_files import load_tokenizer, tokenizer_files
from .torch_graph import LOGITS, TorchGraph, trace
from .torch_reference import reference_of
from .torch_state import TorchState, collect, free_name

if TYPE_CHECKING:
    from zoedge.export.exported import Reference, SampleInputs

    from .onnx_reference import Fill

_TRACE_SHAPE = (2, 8)  # batch and tokens of the example; 0 and 1 would be baked in


@dataclass(frozen=True)
class _Loaded:
    """A model with the module that gives its logits."""

    model: PreTrainedModel
    module: nn.Module
    state: TorchState
    labels: tuple[str, ...]
    head: tuple[str, str] | None


def export_text_model(
    origin: Origin,
    config: PretrainedConfig,
    plan: ExportPlan,
    labels: tuple[str, ...],
    template: str | None,
    max_seq_length: int | None,
    exporter: str,
) -> Exported:
    """Export a text model with dynamic batch and sequence.

    Raises:
        InputError: see ``from_huggingface``.
    """
    tokenizer = load_tokenizer(origin)
    source = source_of(origin, config, exporter)
    causal = plan.route == "causal"
    if plan.route == "masked" and tokenizer.mask_token_id is None:
        raise InputError(f"the tokenizer of {origin.address} has no mask token, which {plan.task} needs here")
    word_ids = _word_ids(tokenizer, template, labels, causal=causal)
    loaded = _load(origin, config, plan, labels)
    text = text_settings(loaded.model, tokenizer, max_seq_length, causal=causal)
    files = _files(origin, tokenizer, loaded.model)
    if loaded.model.config.pad_token_id is None:
        loaded.model.config.pad_token_id = text.pad_id  # decoders with a head find the last token by it
    ids, limit = plain_ids(loaded.model, tokenizer), positions(loaded.model)
    reference = reference_of(loaded.module, head=_head_module(loaded))
    if exporter == "optimum":
        graph, fill = _by_optimum(loaded, plan)
        names = tuple(value.name for value in graph.model.graph.input)
        reference = _filled(reference, fill)
        sample = text_samples(ids, text.pad_id, names, limit)
    else:
        names = input_names(loaded.model, tokenizer)
        sample = text_samples(ids, text.pad_id, names, limit)
        graph = _trace(loaded, plan, sample, limit)
    text = msgspec.structs.replace(
        text, template=template, label_word_ids=word_ids, token_types="token_type_ids" in names
    )
    return Exported(
        model=graph.model,
        weights=graph.weights,
        parameters=graph.parameters,
        tied=loaded.state.tied,
        lookups=loaded.state.lookups,
        task=plan.task,
        loss=_loss(plan),
        logits=free_name(LOGITS, loaded.state),
        labels=loaded.labels,
        text=text,
        source=source,
        fresh_head=loaded.head,
        files=files,
        reference=reference,
        sample_inputs=sample,
        positions=limit,
    )


def _word_ids(
    tokenizer: PreTrainedTokenizerFast, template: str | None, labels: tuple[str, ...], *, causal: bool
) -> tuple[int, ...]:
    if template is None:
        return ()
    check_template(template, causal=causal)
    return label_word_ids(tokenizer, template, labels, causal=causal)


def _files(origin: Origin, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> dict[str, bytes]:
    files = tokenizer_files(origin, tokenizer) | {"config.json": config_file(origin, model)}
    generation = origin.file("generation_config.json")
    return files if generation is None else files | {"generation_config.json": generation}


def _trace(loaded: _Loaded, plan: ExportPlan, sample: SampleInputs, limit: int | None) -> TorchGraph:
    arrays = sample(np.random.default_rng(0), *_TRACE_SHAPE)
    return trace(
        loaded.module,
        loaded.state,
        {name: torch.from_numpy(array) for name, array in arrays.items()},
        {name: {0: "batch", 1: "sequence"} for name in arrays},
        called=free_name(LOGITS, loaded.state),
        output_dims=_output_dims(loaded, plan),
        largest=None if limit is None else {"sequence": limit},
    )


def _by_optimum(loaded: _Loaded, plan: ExportPlan) -> tuple[TorchGraph, Fill]:
    from .optimum_export import optimum_graph

    if plan.route == "pooled":
        raise InputError(
            f"optimum exports the heads that {type(loaded.model).__name__} has, and a new one is asked for: leave "
            "--exporter optimum out, as the default exporter makes new heads"
        )
    return optimum_graph(loaded.model, loaded.state, plan, _output_dims(loaded, plan))


def _filled(reference: Reference, fill: Fill) -> Reference:
    return lambda inputs: reference(fill(inputs))


def _load(origin: Origin, config: PretrainedConfig, plan: ExportPlan, labels: tuple[str, ...]) -> _Loaded:
    if plan.route == "head":
        model, names, head = load_classifier(origin, config, plan, labels)
        return _Loaded(model, model, collect(model, secondary=tied_names(model)), names, head)
    model = load_pretrained(origin, plan.route, config)
    tied = tied_names(model)
    if plan.route != "pooled":
        return _Loaded(model, model, collect(model, secondary=tied), labels, None)
    if not labels and plan.task != "regression":
        raise InputError(
            f"{type(model).__name__} has no classes of its own: give --labels a,b,c for a new head"
        )
    pooling = declared_pooling(origin) or ("last" if is_causal(config) else "mean")
    module = PooledClassifier(model, pooling, len(labels) or 1).eval()
    head = (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias")
    return _Loaded(model, module, collect(module, source_name, tied), labels, head)


def _output_dims(loaded: _Loaded, plan: ExportPlan) -> tuple[Dim, ...]:
    if plan.route in ("causal", "masked"):
        return ("batch", "sequence", int(loaded.model.config.vocab_size))
    return ("batch", len(loaded.labels) or 1)


def _loss(plan: ExportPlan) -> str:
    if plan.task == "regression":
        return "mse"
    return "cross-entropy" if plan.task == "text-classification" else "token-cross-entropy"


def _head_module(loaded: _Loaded) -> str | None:
    return None if loaded.head is None else loaded.head[0].rpartition(".")[0]
