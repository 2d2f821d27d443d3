"""Sessions of onnxruntime as the device makes them; the one place of the export that imports it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.errors import InputError, MissingPackageError
from zoedge.manifest import PREDICT, PREDICTIONS
from zoedge.sessions import STALE_OPTIMIZERS, Entry, open_exact

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingPackageError("onnxruntime", "cpu", "checking an exported model") from error

Arrays = Mapping[str, np.ndarray[Any, Any]]

VERSION: str = ort.__version__
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_UNKNOWN_OP = re.compile(
    r"No Op registered for (?P<a>\S+)|Error: (?P<b>\S+)\(-?\d+\) is not a registered|"
    r"error: (?P<c>\S+)\(-?\d+\) is not a registered|implementation for (?P<d>\w+)\(",
    re.IGNORECASE,
)


class Session:
    """One inference session.

    Args:
        model: path of an ``.onnx`` file, or the bytes of one.
        what: how messages call it.
        buffers: trainable name -> array that the session reads in place in every run.
        folder: where the external data of a model given as bytes lies.
        prepack: let onnxruntime copy frozen weights into faster layouts; False saves that memory.

    Raises:
        InputError: onnxruntime can't run the model; names the operator where that is the reason.
    """

    def __init__(
        self,
        model: Path | bytes,
        what: str,
        *,
        buffers: Arrays | None = None,
        folder: Path | None = None,
        prepack: bool = True,
    ) -> None:
        self._what = what
        self._keep = {
            name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (buffers or {}).items()
        }
        source = model if isinstance(model, bytes) else str(model)

        def open_session(entries: tuple[Entry, ...], silent: bool) -> ort.InferenceSession:
            options = _options(folder, prepack, entries)
            if silent:
                options.log_severity_level = 4
            for name, value in self._keep.items():
                options.add_initializer(name, value)
            providers = ["CPUExecutionProvider"]
            return ort.InferenceSession(
                source, options, providers=providers, disabled_optimizers=list(STALE_OPTIMIZERS)
            )

        try:
            self._session = open_exact(open_session, what)
        except InputError:
            raise
        except Exception as error:  # onnxruntime's classes share no base
            raise InputError(_refusal(what, error)) from error
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self.optional = frozenset(value.name for value in self._session.get_overridable_initializers())
        self._inputs = frozenset(value.name for value in self._session.get_inputs())

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Run once and return the outputs by name; arrays for inputs the graph lacks are ignored.

        Raises:
            InputError: the run fails, as the inputs don't fit the graph.
        """
        wanted = tuple(outputs or self.outputs)
        known = self._inputs | self.optional
        given = {name: array for name, array in inputs.items() if name in known}
        if PREDICTIONS in wanted and PREDICT in self.optional:
            given[PREDICT] = np.array(True)
        try:
            return dict(zip(wanted, self._session.run(wanted, given), strict=True))
        except Exception as error:
            shapes = ", ".join(
                f"{name} {list(array.shape)}" for name, array in given.items() if name in self._inputs
            )
            raise InputError(
                f"onnxruntime {VERSION} fails on {self._what} with {shapes}: {_first_line(error)}; give "
                "example_inputs of valid shapes and values"
            ) from error


def _options(folder: Path | None, prepack: bool, entries: tuple[Entry, ...]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # a warning per overridable initializer would say what we intend
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    if folder is not None:
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder))
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, setting in entries:
        options.add_session_config_entry(key, setting)
    return options


def _refusal(what: str, error: Exception) -> str:
    match = _UNKNOWN_OP.search(str(error))
    op = next((group for group in match.groups() if group), None) if match else None
    if op is None:
        return f"onnxruntime {VERSION} can't run {what}: {_first_line(error)}"
    if match is not None and match["d"]:
        return (
            f"onnxruntime {VERSION} can't run {what}: its CPU has no {op} for these types; let the graph cast "
            "bfloat16 to float32 before it computes, or export the model with standard operators"
        )
    return (
        f"onnxruntime {VERSION} can't run {what}: it has no operator {op.rstrip(',')}; export the model with "
        "standard operators"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text.rpartition("[ONNXRuntimeError] : ")[2].rstrip(".")
