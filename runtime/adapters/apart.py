"""Adapters on the device that are never added to anything: prompts and prefixes."""

from __future__ import annotations

from zoedge.manifest import Branch

from .base import Adapter


class AlwaysApart(Adapter):
    """An ``Adapter``."""

    def scalable(self, branch: Branch) -> bool:
        """Return that it isn't."""
        return False


ADAPTER: Adapter = AlwaysApart()
