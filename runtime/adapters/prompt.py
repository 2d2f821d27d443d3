"""Prompts on the device, and PEFT's adapter of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoedge.adapters import PromptBranch
from zoedge.manifest import Branch

from .apart import AlwaysApart
from .base import Adapter, Tensors


class TunedPrompt(AlwaysApart):
    """An ``Adapter``."""

    def peft_whole(self, branches: Sequence[Branch], factors: Tensors) -> Tensors | None:
        """Return the rows."""
        return {"prompt_embeddings": factors[PromptBranch.of(branches[0]).rows]}

    def peft_config(self, branches: Sequence[Branch]) -> dict[str, Any] | None:
        """Return how many rows there are, and how long each is."""
        prompt = PromptBranch.of(branches[0])
        return {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": prompt.tokens,
            "token_dim": prompt.width,
            "prompt_tuning_init": "RANDOM",
        }


ADAPTER: Adapter = TunedPrompt()
