"""The loss graph as two sessions: what no trainable tensor reaches, and the rest, for several probes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

import numpy as np

from zoedge.bundle import Bundle
from zoedge.manifest import PREFIX_FILE, SUFFIX_FILE
from zoedge.names import given

from ..data.example import Array, Arrays
from .engine import Engine, SessionSettings
from .prefix_cache import PrefixCache


class Staged:
    """Runs ``prefix.onnx`` and ``suffix.onnx`` of a bundle.

    Args:
        bundle: one whose manifest has ``stages``.
        buffers: trainable name -> contiguous float32 array, as for ``Engine``.
        settings: ``threads``, ``provider`` and ``frozen`` as for ``Engine``.

    Attributes:
        cache: what keeps the first part's results across steps; None where nothing does.

    Raises:
        InputError: as ``Engine`` does.
    """

    def __init__(
        self, bundle: Bundle, buffers: Mapping[str, Array], **settings: Unpack[SessionSettings]
    ) -> None:
        factors = {name for branch in bundle.manifest.lora for name in (branch.a, branch.b)}
        self._factors = {name: array for name, array in buffers.items() if name in factors}
        dense = {name: array for name, array in buffers.items() if name not in factors}
        self._prefix = (
            Engine(bundle.path(PREFIX_FILE), {}, **settings) if PREFIX_FILE in bundle.manifest.files else None
        )
        self._suffix = Engine(bundle.path(SUFFIX_FILE), dense, **settings)
        self.outputs = self._suffix.outputs
        self.cache: PrefixCache | None = None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once at the buffers' present values; the same contract as ``Engine.run``."""
        return self.finish(self.begin(inputs), {}, outputs)

    def begin(self, inputs: Mapping[str, Array]) -> Arrays:
        """Return the inputs with what the first part makes of them: all that ``finish`` needs."""
        if self._prefix is None:
            return dict(inputs)
        read = {name: given(inputs, name) for name in self._prefix.inputs}
        run = partial(self._prefix.run, outputs=self._prefix.values)
        return {**inputs, **(run(read) if self.cache is None else self.cache.run(run, read))}

    def finish(
        self, begun: Arrays, stacked: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the second part.

        Args:
            begun: from ``begin``.
            stacked: LoRA factor -> its values at each probe, [probes, ...]; factors not in it have their
                buffers' present value at every probe.
            outputs: the outputs wanted; all by default.

        Returns:
            Output name -> array [probes x batch, ...], probe after probe; one probe where nothing is stacked.
        """
        count = len(next(iter(stacked.values()))) if stacked else 1
        rows = begun if count == 1 else {name: _tiled(array, count) for name, array in begun.items()}
        factors = {name: stacked.get(name, buffer[np.newaxis]) for name, buffer in self._factors.items()}
        return self._suffix.run({**rows, **factors}, outputs)


def _tiled(array: Array, count: int) -> Array:
    return np.tile(array, (count, *[1] * (array.ndim - 1)))
