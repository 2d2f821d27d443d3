"""Prefixes on the device, and PEFT's adapter of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoedge.adapters import PrefixBranch
from zoedge.manifest import Branch

from .apart import AlwaysApart
from .base import Adapter, Tensors


class TunedPrefix(AlwaysApart):
    """An ``Adapter``."""

    def peft_whole(self, branches: Sequence[Branch], factors: Tensors) -> Tensors | None:
        """Return keys and values, one layer after the other, as [tokens, layers x 2 x heads x width]."""
        layers = [PrefixBranch.of(branch) for branch in branches]
        parts = [factors[name].swapaxes(0, 1) for layer in layers for name in (layer.keys, layer.values)]
        return {"prompt_embeddings": np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)}

    def peft_config(self, branches: Sequence[Branch]) -> dict[str, Any] | None:
        """Return the sizes of all layers."""
        first = PrefixBranch.of(branches[0])
        return {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": first.tokens,
            "num_layers": len(branches),
            "num_attention_heads": first.heads,
            "token_dim": first.heads * first.width,
            "prefix_projection": False,
        }


ADAPTER: Adapter = TunedPrefix()
