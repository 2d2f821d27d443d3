"""The engine: one inference session of a bundle's graph, whose trainable weights are our own buffers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar, Unpack

import numpy as np

from zoedge.errors import InputError, ZoedgeError
from zoedge.names import PREDICT, PREDICTIONS, given, in_graph, output_of, plain

from ..device import Array, Buffer, Device, Places, Read

Begun = Mapping[str, Buffer]  # what a pass reads besides the trainable tensors, where it is run
Stacked = Mapping[str, Buffer]  # trainable tensor -> its values at several points, [points, ...]
Later = Callable[[], dict[str, Array]]  # waits for the outputs of a pass, by name

T = TypeVar("T")


class SessionSettings(TypedDict):
    """The settings that all sessions of a run share.

    Attributes:
        device: where passes run and buffers are.
        threads, frozen: as for ``Device.open``.
    """

    device: Device
    threads: NotRequired[int]
    frozen: NotRequired[Mapping[str, Array] | None]


class Engine:
    """Runs a graph of a bundle.

    Args:
        graph: path of the ``.onnx`` file.
        buffers: trainable name -> float32 buffer; changes to it are seen by the next pass.
        settings: see ``SessionSettings``.

    Attributes:
        inputs: names of the inputs inside the graph, without the buffers.
        values: names of the outputs inside the graph.
        outputs: their plain names.
        grain: what the shapes of passes are multiples of.

    Raises:
        InputError: a graph that onnxruntime can't run.
    """

    def __init__(
        self, graph: Path, buffers: Mapping[str, Buffer], **settings: Unpack[SessionSettings]
    ) -> None:
        self._device = device = settings["device"]
        threads, frozen = settings.get("threads", 0), settings.get("frozen")
        try:
            self._session = device.open(graph, buffers, threads=threads, frozen=frozen)
        except device.errors as error:
            raise InputError(f"{device.runner()} can't run {graph}: {device.failure(error)}") from error
        _check_live(buffers, self._session.optional, graph)
        self.grain = device.grain
        self.inputs = self._session.inputs
        self.values = self._session.outputs
        self.outputs = tuple(map(plain, self.values))
        self._predict = PREDICT if PREDICTIONS in self.values else in_graph(PREDICT)
        self._yes = device.put(np.array(True)) if self._predict in self._session.optional else None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once at the buffers' present values.

        Args:
            inputs: graph input name -> array, or the plain name of what export added (``names.py``); names the
                graph lacks are ignored.
            outputs: the outputs wanted; all by default.

        Returns:
            Output name, as it was asked for, -> array in the host's memory; by default the plain names.
        """
        return self.finish(self.begin(inputs), outputs)

    def begin(self, inputs: Mapping[str, Array]) -> Begun:
        """Put what the graph reads where it is run; any number of passes may follow."""
        return self.put(inputs, self.inputs)

    def finish(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> dict[str, Array]:
        """Run on what was begun; the result is that of ``run``.

        Raises:
            ValueError: values are stacked, which one session has no place for.
        """
        _check_single(stacked)
        wanted = tuple(outputs or self.outputs)
        return dict(zip(wanted, map(self._device.host, self.forward(begun, wanted)), strict=True))

    def later(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> Later:
        """Run on what was begun, as a step does; return what waits for the result, which is that of ``run``."""
        _check_single(stacked)
        wanted = tuple(outputs or self.outputs)
        fetch = self._passed(begun, wanted, self._read)
        return lambda: dict(zip(wanted, fetch(), strict=True))

    def put(self, inputs: Mapping[str, Array | Buffer], names: Iterable[str]) -> dict[str, Buffer]:
        """Return some of the graph's inputs where they are read."""
        return {name: self._device.put(given(inputs, name)) for name in names}

    def forward(self, begun: Begun, outputs: Sequence[str], *, recurring: bool = False) -> list[Buffer]:
        """Return the outputs where they were computed; ``recurring`` where a step does it."""
        return self._passed(begun, outputs, self._computed if recurring else self._session.run)

    def _computed(self, inputs: Mapping[str, Buffer], outputs: Sequence[str]) -> list[Buffer]:
        return self._device.compute(self._session, inputs, outputs)

    def placed(self) -> Places | None:
        """Return which provider runs how many nodes of which operator; None where onnxruntime doesn't tell."""
        return self._session.placed()

    def _read(self, inputs: Mapping[str, Buffer], outputs: Sequence[str]) -> Read:
        return self._device.read(self._session, inputs, outputs)

    def _passed(
        self, begun: Begun, outputs: Sequence[str], run: Callable[[Mapping[str, Buffer], Sequence[str]], T]
    ) -> T:
        inputs = dict(begun)
        if self._yes is not None and PREDICTIONS in outputs:
            inputs[self._predict] = self._yes
        try:
            return run(inputs, [output_of(self.values, name) for name in outputs])
        except self._device.errors as error:
            shapes = ", ".join(sorted(f"{plain(n)} {list(begun[n].shape)}" for n in self.inputs))
            raise ZoedgeError(
                f"the forward pass failed on {shapes}: {self._device.failure(error)}"
            ) from error


def _check_single(stacked: Stacked | None) -> None:
    if stacked:
        raise ValueError(f"a pass of a whole graph is at one point, and {len(stacked)} tensors are stacked")


def _check_live(buffers: Collection[str], optional: Collection[str], graph: Path) -> None:
    frozen = sorted(set(buffers).difference(optional))
    if frozen:
        raise InputError(
            f"{graph} holds {frozen[0]} as a constant, so tuning could not reach it: export the bundle again"
        )
