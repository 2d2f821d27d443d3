"""Prompts on the device: never added to anything."""

from __future__ import annotations

from zoedge.manifest import Branch

from .base import Adapter


class PromptAdapter(Adapter):
    """An ``Adapter``."""

    def scalable(self, branch: Branch) -> bool:
        """Return that it isn't."""
        return False


ADAPTER: Adapter = PromptAdapter()
