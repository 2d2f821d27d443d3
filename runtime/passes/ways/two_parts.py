"""The loss graph in two parts: the first runs once a step or is kept on disk, several points share the second."""

from __future__ import annotations

from ..prefix_cache import PrefixCache
from ..staged import Staged
from .caching import Tried, try_cache
from .situation import Situation
from .use import FormUse


class TwoParts(FormUse):
    """``prefix.onnx`` and ``suffix.onnx``, which give the bits of ``loss.onnx``."""

    timed = True
    saves = "the layers before the first trained one run once a step"

    def usable(self, situation: Situation) -> bool:
        """Return whether the bundle has the two parts."""
        return situation.bundle.manifest.stages is not None

    def stacks(self, situation: Situation) -> bool:
        """Return whether only branches differ between the points of a step."""
        return self.usable(situation) and situation.varying.issubset(situation.bundle.manifest.factors)

    def open(self, situation: Situation, cache: PrefixCache | None = None) -> Staged:
        """Open both parts."""
        staged = Staged(situation.bundle, situation.buffers, **situation.session)
        staged.cache = cache
        return staged

    def try_cache(self, situation: Situation) -> Tried:
        """Return a cache of what the first part makes of each row, where it is worth having."""
        here = situation
        return try_cache(here.bundle, here.recurring, here.batch, lambda: self.open(here))


USE = TwoParts()
