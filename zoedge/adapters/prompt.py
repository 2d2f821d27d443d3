"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): its settings, and what a branch of it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..manifest import Branch
from ..settings import Setting
from .base import AdapterOptions

PROMPT = "prompt"


class PromptOptions(AdapterOptions, frozen=True):
    """How long the prompt is."""

    prompt_tokens: Annotated[int, Setting("trained embeddings before each text", least=1)] = 10


@dataclass(frozen=True)
class PromptBranch:
    """A branch of the kind "prompt": rows [tokens, width] before those that a text looks up in [vocabulary, width].

    ``filler`` is the token id that stands for the prompt where a graph reads ids for anything else.
    """

    rows: str
    tokens: int
    width: int
    filler: int

    @classmethod
    def of(cls, branch: Branch) -> PromptBranch:
        """Return what a branch of this kind says."""
        tokens, filler = (int(branch.settings[name]) for name in ("tokens", "filler"))
        return cls(branch.tensors["rows"], tokens, branch.shape[0], filler)
