"""Sessions of onnxruntime as the device makes them; the one place of the export that imports it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from zoedge.errors import InputError, MissingPackageError
from zoedge.names import PREDICT, PREDICTIONS, given, in_graph, output_of, plain
from zoedge.sessions import STALE_OPTIMIZERS, Entry, open_exact

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingPackageError("onnxruntime", "cpu", "checking an exported model") from error

Arrays = Mapping[str, np.ndarray[Any, Any]]

VERSION: str = ort.__version__
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_BFLOAT16 = "tensor(bfloat16)"
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
        ours: whether export made the graph, whose additions then have their plain names outside (``names.py``).

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
        ours: bool = True,
    ) -> None:
        self._what = what
        self._keep = {
            name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (buffers or {}).items()
        }
        source = model if isinstance(model, bytes) else str(model)

        def open_session(entries: tuple[Entry, ...]) -> ort.InferenceSession:
            options = _options(folder, prepack, entries)
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
        self._values = tuple(output.name for output in self._session.get_outputs())
        self.outputs = tuple(map(plain, self._values)) if ours else self._values
        self.optional = frozenset(value.name for value in self._session.get_overridable_initializers())
        self._inputs = frozenset(value.name for value in self._session.get_inputs())
        self._bits = frozenset(value.name for value in self._session.get_inputs() if value.type == _BFLOAT16)

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Run once and return the outputs by name; arrays for inputs the graph lacks are ignored.

        Inputs of bfloat16, which NumPy lacks, are given as their bits.

        Raises:
            InputError: the run fails, as the inputs don't fit the graph.
        """
        wanted = tuple(outputs or self.outputs)
        feeds = {name: array for name, array in inputs.items() if name in self.optional}
        feeds |= {name: given(inputs, name) for name in self._inputs if _is_given(inputs, name)}
        if PREDICTIONS in wanted and in_graph(PREDICT) in self.optional:
            feeds[in_graph(PREDICT)] = np.array(True)
        for name in self._bits.intersection(feeds):
            kind = int(TensorProto.BFLOAT16)
            feeds[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(feeds[name], kind)
        try:
            values = self._session.run([output_of(self._values, name) for name in wanted], feeds)
            return dict(zip(wanted, values, strict=True))
        except Exception as error:
            shapes = ", ".join(
                f"{plain(name)} {list(array.shape)}" for name, array in feeds.items() if name in self._inputs
            )
            raise InputError(
                f"onnxruntime {VERSION} fails on {self._what} with {shapes}: {_first_line(error)}"
            ) from error


def shapes_of_outputs(
    model: bytes, what: str, sizes: Mapping[str, int]
) -> dict[str, tuple[int | str | None, ...]]:
    """Return the shapes of the outputs of a graph without weights where named axes have these sizes.

    Raises:
        InputError: onnxruntime can't run the model.
    """
    options = _options(None, True, ())
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no base
        raise InputError(_refusal(what, error)) from error
    return {output.name: tuple(output.shape) for output in session.get_outputs()}


def _is_given(arrays: Arrays, name: str) -> bool:
    return any(known in arrays for known in (name, plain(name), in_graph(name)))


def _options(folder: Path | None, prepack: bool, entries: tuple[Entry, ...]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails raises, and is told in our words; some trials may fail
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
