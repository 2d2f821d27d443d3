"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190): its settings, and what a branch of it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..manifest import Branch
from ..settings import Setting
from .base import AdapterOptions

PREFIX = "prefix"


class PrefixOptions(AdapterOptions, frozen=True):
    """How long the prefix is."""

    prefix_tokens: Annotated[int, Setting("trained keys and values before each text's", least=1)] = 5


@dataclass(frozen=True)
class PrefixBranch:
    """A branch of the kind "prefix", one a layer: keys and values [heads, tokens, width] before those of a text.

    ``filler`` is the token id that stands for the prefix where a graph reads ids.
    """

    keys: str
    values: str
    heads: int
    tokens: int
    width: int
    filler: int

    @classmethod
    def of(cls, branch: Branch) -> PrefixBranch:
        """Return what a branch of this kind says."""
        numbers = {name: int(branch.settings[name]) for name in ("heads", "tokens", "width", "filler")}
        return cls(branch.tensors["keys"], branch.tensors["values"], **numbers)
