"""What prompts and prefixes have in common on the device: they are never added to anything."""

from __future__ import annotations

from zoedge.manifest import Branch

from .base import Adapter


class AlwaysApart(Adapter):
    """An ``Adapter``."""

    def scalable(self, branch: Branch) -> bool:
        """Return that it isn't."""
        return False
