"""Adapters: the tuned tensors of branches in the forms that other runtimes read, or in one of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.files import new_file, new_folder
from zoedge.manifest import ADAPTERS_FILE
from zoedge.tensor_file import map_tensors

from ..adapters.base import adapter_of
from ..run.run_folder import save_tensors
from .onnx_adapter import write_onnx_adapter
from .peft_format import CONFIG_FILE, TENSORS_FILE, to_peft


def write_adapter_files(
    bundle: Bundle, tensors: Mapping[str, NDArray[np.generic]], output: str | Path
) -> list[str]:
    """Write the tuned adapter.

    Args:
        bundle: the bundle that was tuned.
        tensors: the tuned values by parameter name, as ``Run.weights`` returns them.
        output: ``NAME.onnx_adapter`` for ``onnxruntime.LoraAdapter`` beside the bundle's
            ``model_adapters.onnx``; else a folder for ``peft.PeftModel.from_pretrained``, or
            ``NAME.safetensors`` for its tensors, with ``adapter_config.json`` beside them. Of a kind that PEFT lacks,
            ``NAME.safetensors`` holds all tuned tensors by their names, and the manifest's branches as JSON in its
            metadata ("branches").

    Returns:
        Names of tuned tensors that the form can't carry; merging keeps them all.

    Raises:
        InputError: the bundle has no branch, the output exists, or PEFT can't load the model.
    """
    output = Path(output)
    if not bundle.manifest.branches:
        raise InputError(
            f"{bundle.folder} has no branches to write as an adapter: "
            "use zoedge merge, or export with --train lora and tune again"
        )
    if output.suffix in (".onnx_adapter", ".safetensors") and output.exists():
        raise InputError(f"{output} exists already: choose another output file or remove it first")
    values = _factors(bundle) | dict(tensors)
    if output.suffix == ".onnx_adapter":
        carried = write_onnx_adapter(bundle, values, output)
    elif output.suffix == ".safetensors" and not _is_in_peft(bundle):
        branches = msgspec.json.encode(bundle.manifest.branches).decode()
        save_tensors(output, values, {"branches": branches})
        carried = set(values)
    else:
        carried = _write_peft(bundle, values, output)
    return sorted(set(tensors) - carried)


def _factors(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """Return the factors as exported: what an untuned one still is."""
    stored = map_tensors(bundle.path(ADAPTERS_FILE))
    return {name: stored[name] for name in bundle.manifest.factors}


def _is_in_peft(bundle: Bundle) -> bool:
    branches = bundle.manifest.branches
    return adapter_of(branches[0]).peft_config(branches) is not None


def _write_peft(bundle: Bundle, values: Mapping[str, NDArray[np.generic]], output: Path) -> set[str]:
    adapter = to_peft(bundle, values)
    if output.suffix == ".safetensors":
        config = output.with_name(CONFIG_FILE)
        if config.exists():
            raise InputError(f"{config} exists already: choose another output folder or remove it first")
        save_tensors(output, adapter.tensors)
        with new_file(config) as temporary:
            temporary.write_bytes(adapter.config)
    else:
        with new_folder(output) as folder:
            save_tensors(folder / TENSORS_FILE, adapter.tensors)
            (folder / CONFIG_FILE).write_bytes(adapter.config)
    return adapter.carried
