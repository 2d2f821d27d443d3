"""How a Hugging Face model reads text: length, padding, special tokens, inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from zoedge.errors import InputError
from zoedge.manifest import Text

_DEFAULT_LENGTH = 512


def positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence that the model takes, or None where it has no limit.

    Families after RoBERTa count positions from their padding index + 1, so their table holds that many more.
    """
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ):
            return int(module.num_embeddings - module.padding_idx - 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Return which of input_ids, attention_mask and token_type_ids the model is fed."""
    names = ["input_ids", "attention_mask"]
    accepted = inspect.signature(model.base_model.forward).parameters
    kinds = getattr(model.config, "type_vocab_size", 0) or 0
    if "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in accepted and kinds > 1:
        names.append("token_type_ids")
    return tuple(names)


def text_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, max_seq_length: int | None, *, causal: bool
) -> Text:
    """Return the manifest's text settings, without a template.

    Args:
        model: gives the limit of positions.
        tokenizer: gives the special tokens.
        max_seq_length: asked for; cut to what the model takes. None: 512 or the model's limit.
        causal: also tell how a text begins and ends.

    Raises:
        InputError: ``max_seq_length`` is below 1.
    """
    if max_seq_length is not None and max_seq_length < 1:
        raise InputError(f"--max-seq-length {max_seq_length} should be 1 or more tokens")
    limits = [max_seq_length or min(_DEFAULT_LENGTH, tokenizer.model_max_length)]
    limit = positions(model)
    length = min(limits if limit is None else [*limits, limit])
    return Text(
        max_length=length,
        pad_id=pad_id(model, tokenizer),
        mask_id=None if causal else tokenizer.mask_token_id,
        bos_id=_missing_bos(tokenizer) if causal else None,
        eos_id=_eos(model, tokenizer) if causal else None,
        token_types="token_type_ids" in input_names(model, tokenizer),
    )


def pad_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id for padding: the model's, the tokenizer's, or one that the mask hides (its end token)."""
    for value in (model.config.pad_token_id, tokenizer.pad_token_id, _eos(model, tokenizer)):
        if value is not None and value >= 0:
            return int(value)
    return 0


def plain_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Sequence[int]:
    """Return the token ids of ordinary text."""
    special = {*tokenizer.all_special_ids, pad_id(model, tokenizer)}
    size = min(len(tokenizer), int(model.config.vocab_size))
    return [i for i in range(size) if i not in special]


def _missing_bos(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the first token of a text where the tokenizer should add it and its file doesn't."""
    wanted = getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token_id is not None
    if wanted and tokenizer("a").input_ids[:1] != [tokenizer.bos_token_id]:
        return int(tokenizer.bos_token_id)
    return None


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int | None:
    eos = tokenizer.eos_token_id
    if eos is None:
        eos = model.config.eos_token_id
    if isinstance(eos, list | tuple):
        eos = eos[0] if eos else None
    return None if eos is None else int(eos)
