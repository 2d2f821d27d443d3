"""``.onnx_adapter``: named tensors that ``onnxruntime.LoraAdapter`` feeds to a graph's optional inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import BundleError
from zoedge.files import new_file
from zoedge.manifest import ADAPTED_MODEL_FILE

from ..device.ort import ORT_ERRORS, first_line
from ..device.ort import onnxruntime as ort

_VERSION = 1  # of the adapter and of the model it fits: onnxruntime stores both and compares neither


def write_onnx_adapter(bundle: Bundle, values: Mapping[str, NDArray[np.generic]], output: Path) -> set[str]:
    """Write the tensors that the bundle's ``model_adapters.onnx`` takes as optional inputs.

    Args:
        bundle: the bundle that was tuned.
        values: LoRA factors and other tuned tensors by parameter name.
        output: the file to write.

    Returns:
        Names of the tensors it holds.

    Raises:
        BundleError: onnxruntime can't run the graph, or the graph doesn't take a factor.
    """
    path = bundle.path(ADAPTED_MODEL_FILE)
    optional = _optional_inputs(path)
    missing = sorted(set(bundle.manifest.factors) - optional)
    if missing:
        raise BundleError(f"{path} doesn't take {missing[0]} as an input: export the bundle again")
    arrays = {name: np.asarray(value, order="C") for name, value in values.items() if name in optional}
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(_VERSION)
    adapter.set_model_version(_VERSION)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()})
    with new_file(output) as temporary:
        adapter.export_adapter(str(temporary))
    return set(arrays)


def _optional_inputs(path: Path) -> set[str]:
    """Return the names that a graph takes as inputs but doesn't require."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # one warning per overridable initializer says what we ask for
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise BundleError(f"onnxruntime {ort.__version__} can't run {path}: {first_line(error)}") from error
    return {value.name for value in session.get_overridable_initializers()}
