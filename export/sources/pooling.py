"""A new classifier on an encoder: token features pooled over the sequence, then one linear layer of zeros."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from zoedge.errors import InputError

from .hf_origin import Origin

Pooling = Literal["mean", "cls", "last"]

CLASSIFIER = "classifier"
_SOURCE = "source."
_DECLARED: dict[str, Pooling] = {  # keys of sentence-transformers' 1_Pooling/config.json
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def declared_pooling(origin: Origin) -> Pooling | None:
    """Return the pooling that the model's sentence-transformers files declare, or None without such files.

    Raises:
        InputError: they declare another one than mean, cls or last token, or several.
    """
    config = origin.json("1_Pooling/config.json")
    if config is None:
        return None
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _DECLARED:
        raise InputError(
            f"1_Pooling/config.json of {origin.address} declares {' + '.join(chosen) or 'no pooling'}: "
            f"set exactly one of {', '.join(_DECLARED)} to true"
        )
    return _DECLARED[chosen[0]]


class PooledClassifier(nn.Module):  # type: ignore[misc]
    """logits [batch, outputs] = classifier(pool(encoder(inputs), attention_mask)).

    Attributes:
        source: the whole source model, whose names are kept; only its ``base_model`` runs.
        classifier: the new head, zeros.
    """

    def __init__(self, source: nn.Module, pooling: Pooling, outputs: int) -> None:
        super().__init__()
        self.source = source
        self.classifier = nn.Linear(source.config.hidden_size, outputs)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self._pooling = pooling

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits, float32 [batch, outputs]; every row of attention_mask needs a 1."""
        tokens = self.source.base_model(**inputs).last_hidden_state
        return self.classifier(pool(tokens, inputs["attention_mask"], self._pooling))


def pool(tokens: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return features [batch, width] of tokens [batch, sequence, width] under a right-padded mask."""
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, tokens.shape[-1])
        return torch.gather(tokens, 1, last)[:, 0]
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


def source_name(name: str) -> str:
    """Return the source's own name of a tensor of a ``PooledClassifier``; the new head keeps its name."""
    return name.removeprefix(_SOURCE)
