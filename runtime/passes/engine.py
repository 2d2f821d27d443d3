"""The engine: one onnxruntime inference session whose trainable weights are our own buffers.

Trainable tensors are overridable initializers (initializer and graph input, IR >= 4): onnxruntime then
neither folds nor prepacks them, and reads the array given by ``add_initializer`` at every run. Frozen ones
stay ordinary constants, mapped from the bundle's file and prepacked: unless memory is short, when they are
given as read-only maps and used where they lie.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError, ZoedgeError
from zoedge.manifest import PREDICT, PREDICTIONS
from zoedge.sessions import STALE_OPTIMIZERS, Entry, open_exact

from .ort import ORT_ERRORS, first_line
from .ort import onnxruntime as ort

Array = NDArray[np.generic]

# this one writes transposed matrices to memory of its own
COPYING_OPTIMIZERS = ("ConstantFolding",)


class SessionSettings(TypedDict, total=False):
    """The settings that all sessions of a run share; see ``Engine``."""

    threads: int
    provider: str
    frozen: Mapping[str, Array] | None


class Engine:
    """Runs a graph of a bundle.

    Args:
        graph: path of the ``.onnx`` file.
        buffers: trainable name -> contiguous float32 array; changes to it are seen by the next ``run``.
        threads: intra-op threads; 0 leaves the choice to onnxruntime.
        provider: execution provider; "cpu".
        frozen: name -> array of frozen tensors to use where they lie; None lets onnxruntime load, fold and
            prepack them, which is faster on short inputs and holds a second copy of every matrix.

    Raises:
        InputError: an unknown provider, or a graph that onnxruntime can't run.
    """

    def __init__(
        self,
        graph: Path,
        buffers: Mapping[str, Array],
        *,
        threads: int = 0,
        provider: str = "cpu",
        frozen: Mapping[str, Array] | None = None,
    ) -> None:
        given = {**(frozen or {}), **buffers}
        self._keep = {name: (ort.OrtValue.ortvalue_from_numpy(array), array) for name, array in given.items()}
        for name, (value, array) in self._keep.items():
            if value.data_ptr() != array.ctypes.data:
                raise ZoedgeError(
                    f"onnxruntime copied {name} instead of sharing it: its buffer must be contiguous"
                )
        copying = COPYING_OPTIMIZERS if frozen is not None else ()

        def open_session(entries: tuple[Entry, ...], silent: bool) -> ort.InferenceSession:
            options = _options(threads, entries, in_place=frozen is not None)
            if silent:
                options.log_severity_level = 4
            for name, (value, _) in self._keep.items():
                options.add_initializer(name, value)
            return ort.InferenceSession(
                str(graph),
                options,
                providers=_providers(provider),
                disabled_optimizers=[*STALE_OPTIMIZERS, *copying],
            )

        try:
            self._session = open_exact(open_session, str(graph))
        except ORT_ERRORS as error:
            raise InputError(
                f"onnxruntime {ort.__version__} can't run {graph}: {first_line(error)}"
            ) from error
        optional = {i.name for i in self._session.get_overridable_initializers()}
        _check_live(buffers, optional, graph)
        self._predict = ort.OrtValue.ortvalue_from_numpy(np.array(True)) if PREDICT in optional else None
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self.inputs = frozenset(i.name for i in self._session.get_inputs()) - set(buffers)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: graph input name -> array; names the graph lacks are ignored.
            outputs: the outputs wanted; all by default.

        Returns:
            Output name -> new array.
        """
        binding = self._session.io_binding()
        for name in self.inputs:
            binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name]))
        wanted = tuple(outputs or self.outputs)
        if self._predict is not None and PREDICTIONS in wanted:
            binding.bind_ortvalue_input(PREDICT, self._predict)
        for name in wanted:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding)
        except ORT_ERRORS as error:
            shapes = ", ".join(f"{name} {list(inputs[name].shape)}" for name in sorted(self.inputs))
            raise ZoedgeError(f"the forward pass failed on {shapes}: {first_line(error)}") from error
        return dict(zip(wanted, binding.copy_outputs_to_cpu(), strict=True))


def _options(threads: int, entries: tuple[Entry, ...], *, in_place: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # one warning per overridable initializer says what we intend
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.enable_mem_pattern = False  # shapes differ from batch to batch
    # its arena holds less than the C library's allocator, which splits what it gets back, but asks for more
    # address space than it fills: where memory is short, that counts against limits
    options.enable_cpu_mem_arena = not in_place
    options.intra_op_num_threads = threads
    # threads that spin after a run would steal the cores from the noise kernel
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if in_place:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, setting in entries:
        options.add_session_config_entry(key, setting)
    return options


def _check_live(buffers: Collection[str], optional: Collection[str], graph: Path) -> None:
    frozen = sorted(set(buffers).difference(optional))
    if frozen:
        raise InputError(
            f"{graph} holds {frozen[0]} as a constant, so tuning could not reach it: export the bundle again"
        )


def _providers(name: str) -> list[str]:
    known = {"cpu": "CPUExecutionProvider"}
    if name not in known:
        raise InputError(f"--provider {name!r} is not supported: use {', '.join(known)}")
    return [known[name]]
