"""The loss graph as two sessions: what no trainable tensor reaches, and the rest, for several points at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from zoedge.bundle import Bundle
from zoedge.manifest import PREFIX_FILE, SUFFIX_FILE
from zoedge.names import given

from ..data.example import Array, Arrays
from ..device import Buffer
from .engine import Begun, Engine, Later, SessionSettings, Stacked
from .prefix_cache import PrefixCache


class Staged:
    """Runs ``prefix.onnx`` and ``suffix.onnx`` of a bundle.

    Args:
        bundle: one whose manifest has ``stages``.
        buffers: trainable name -> float32 buffer, as for ``Engine``.
        settings: as for ``Engine``.

    Attributes:
        cache: what keeps the first part's results across steps; None where nothing does.

    Raises:
        InputError: as ``Engine`` does.
    """

    def __init__(
        self, bundle: Bundle, buffers: Mapping[str, Buffer], **settings: Unpack[SessionSettings]
    ) -> None:
        factors = set(bundle.manifest.factors)
        self._device = settings["device"]
        self._factors = {name: buffer for name, buffer in buffers.items() if name in factors}
        # those that don't differ from point to point are read where they lie
        self._alone = {name: self._device.alone(buffer) for name, buffer in self._factors.items()}
        dense = {name: buffer for name, buffer in buffers.items() if name not in factors}
        self._prefix = (
            Engine(bundle.path(PREFIX_FILE), {}, **settings) if PREFIX_FILE in bundle.manifest.files else None
        )
        self._suffix = Engine(bundle.path(SUFFIX_FILE), dense, **settings)
        self.grain = self._suffix.grain
        self.outputs = self._suffix.outputs
        self.cache: PrefixCache | None = None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once at the buffers' present values; the same contract as ``Engine.run``."""
        return self.finish(self._begun(inputs, recurring=False), outputs)

    def begin(self, inputs: Mapping[str, Array]) -> Begun:
        """Run the first part; return all that ``finish`` needs, where it is run."""
        return self._begun(inputs, recurring=True)

    def _begun(self, inputs: Mapping[str, Array], *, recurring: bool) -> Begun:
        known: dict[str, Array | Buffer] = {**inputs, **self._first_part(inputs, recurring=recurring)}
        return self._suffix.put(known, self._suffix.inputs - self._factors.keys())

    def crossing(self, inputs: Mapping[str, Array]) -> Arrays:
        """Return what ``begin`` does, in the host's memory."""
        return {name: self._device.host(value) for name, value in self.begin(inputs).items()}

    def finish(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> dict[str, Array]:
        """Run the second part.

        Args:
            begun: from ``begin``.
            outputs: the outputs wanted; all by default.
            stacked: LoRA factor -> its values at each point, [points, ...]; factors not in it have their
                buffers' present value at every point.

        Returns:
            Output name -> array [points x batch, ...], point after point; one point where nothing is stacked.
        """
        return self._suffix.finish(self._second_part(begun, stacked or {}), outputs)

    def later(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> Later:
        """Run the second part as a step does; return what waits for the result, which is that of ``finish``."""
        return self._suffix.later(self._second_part(begun, stacked or {}), outputs)

    def _second_part(self, begun: Begun, stacked: Stacked) -> Begun:
        """Return what it is given: the rows again for each point, and the factors at all of them."""
        device = self._device
        count = next(iter(stacked.values())).shape[0] if stacked else 1
        rows = begun if count == 1 else {name: device.repeat(value, count) for name, value in begun.items()}
        return {**rows, **self._alone, **stacked}

    def _first_part(self, inputs: Mapping[str, Array], *, recurring: bool) -> Mapping[str, Array | Buffer]:
        """Return what crosses to the second part."""
        prefix = self._prefix
        if prefix is None:
            return {}
        if self.cache is None:
            crossing = prefix.forward(prefix.begin(inputs), prefix.values, recurring=recurring)
            return dict(zip(prefix.values, crossing, strict=True))
        read: Arrays = {name: given(inputs, name) for name in prefix.inputs}
        return self.cache.run(lambda few: prefix.run(few, prefix.values), read)
