"""PEFT's adapter format: the tensors and the configuration that ``peft.PeftModel.from_pretrained`` reads.

LoRA factors are its core. Besides, ``modules_to_save`` replaces whole modules (a classifier, a norm) and
``bias`` covers single biases. Dense matrices beside a branch and tied tensors have no place in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import WEIGHTS_FILE, Branch, Manifest, QuantizedMatrix
from zoedge.tensor_file import map_tensors

from ..adapters.base import adapter_of
from .dequantize import dequantized, source_tensors

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_CLASSIFIERS = ("classifier", "score")  # modules that task type SEQ_CLS always replaces

Arrays = Mapping[str, NDArray[np.generic]]


class PeftAdapter(NamedTuple):
    """The content of the two files; ``carried`` are the parameter names whose values it holds."""

    tensors: dict[str, NDArray[np.generic]]
    config: bytes
    carried: set[str]


def to_peft(bundle: Bundle, values: Arrays) -> PeftAdapter:
    """Return the adapter in PEFT's format.

    Args:
        bundle: the bundle that was tuned.
        values: every LoRA factor, and the other tuned tensors, by parameter name.

    Raises:
        InputError: the source is an ``.onnx`` file, which PEFT can't load, or a branch lies beside no module of it.
    """
    manifest = bundle.manifest
    if manifest.source.kind == "onnx":
        raise InputError(
            f"PEFT can't load {manifest.source.name}, an ONNX file: "
            "write NAME.onnx_adapter or use zoedge merge instead"
        )
    own = _own_config(manifest.branches)
    lookup = next((branch.module for branch in manifest.branches if branch.of_lookup), None)
    if lookup is not None:
        raise InputError(
            f"PEFT can't put the adapter of {lookup} where it belongs, as the module of that name is an embedding: "
            "write NAME.onnx_adapter or use zoedge merge instead"
        )
    targets = {module for branch in manifest.branches for module in (branch.module, *branch.also)}
    factors = set(manifest.factors)
    dense = set(values) - factors - _foreign(bundle)
    classifier = _classifier(bundle, targets)
    whole = adapter_of(manifest.branches[0]).peft_whole(manifest.branches, values)
    if whole is not None:
        return PeftAdapter(
            dict(whole), _whole_config(manifest, own, _task_type(manifest, classifier)), factors
        )
    modules = _outermost(_replaceable(manifest, dense, targets) | ({classifier} if classifier else set()))
    raw = map_tensors(bundle.path(WEIGHTS_FILE))
    stored = source_tensors(raw, manifest.quantization) | dict(values)
    saved = {name for name in stored if any(_under(name, module) for module in modules)}
    biases = {name for name in dense - saved if _leaf(name) == "bias"}
    tensors = {f"{_PREFIX}{name}": _dense(stored[name], manifest, raw) for name in saved}
    tensors |= {_bias_key(name, targets): values[name] for name in biases}
    for branch in manifest.branches:
        for name, value in adapter_of(branch).peft_tensors(branch, values).items():
            tensors |= {f"{_PREFIX}{module}.{name}": value for module in (branch.module, *branch.also)}
    config = _config(manifest, own) | {
        "task_type": _task_type(manifest, classifier),
        "modules_to_save": sorted(modules) or None,
        "bias": "all" if biases else "none",
    }
    return PeftAdapter(tensors, json.dumps(config, indent=1).encode(), factors | saved | biases)


def _whole_config(manifest: Manifest, own: Mapping[str, Any], task: str | None) -> bytes:
    """Return the configuration of a kind that isn't beside modules."""
    if task is None:
        raise InputError(
            f"PEFT has {manifest.branches[0].kind} adapters for causal models and for classifiers with a head of their "
            "own: write NAME.onnx_adapter or use zoedge merge instead"
        )
    common = {
        "base_model_name_or_path": manifest.source.name,
        "revision": manifest.source.revision,
        "task_type": task,
        "num_transformer_submodules": 1,
        "inference_mode": True,
    }
    return json.dumps({**own, **common}, indent=1).encode()


def _dense(
    tensor: NDArray[np.generic] | QuantizedMatrix, manifest: Manifest, raw: Arrays
) -> NDArray[np.generic]:
    if isinstance(tensor, QuantizedMatrix):
        return dequantized(tensor, manifest.quantization.kind if manifest.quantization else "", raw)
    return tensor


def _foreign(bundle: Bundle) -> set[str]:
    """Return the tensors of a head that export put on an encoder: transformers' own model lacks them."""
    head = bundle.manifest.head
    if head is None or not head.fresh or bundle.manifest.source.kind != "huggingface":
        return set()
    config = json.loads(bundle.path("config.json").read_bytes())
    if any(name.endswith("Classification") for name in config.get("architectures") or ()):
        return set()
    return {head.weight} | ({head.bias} if head.bias else set())


def _classifier(bundle: Bundle, targets: Set[str]) -> str | None:
    """Return the module that holds the head: "classifier" also where the head is classifier.out_proj."""
    head = bundle.manifest.head
    if head is None or head.weight in _foreign(bundle):
        return None
    parts = _module(head.weight).split(".")
    depth = next((i for i, part in enumerate(parts, 1) if part in _CLASSIFIERS), len(parts))
    module = ".".join(parts[:depth])
    return None if any(_under(target, module) for target in targets) else module


def _replaceable(manifest: Manifest, dense: Set[str], targets: Set[str]) -> set[str]:
    """Return the modules to replace for a tuned tensor other than a bias."""
    tied = {p.name for p in manifest.parameters if p.tied_to}
    modules = {_module(name) for name in dense - tied if _leaf(name) != "bias"}
    return {m for m in modules if m and not any(_under(target, m) for target in targets)}


def _outermost(modules: Set[str]) -> set[str]:
    return {m for m in modules if not any(m != other and _under(m, other) for other in modules)}


def _config(manifest: Manifest, own: Mapping[str, Any]) -> dict[str, Any]:
    branches = manifest.branches
    return {
        **own,
        "base_model_name_or_path": manifest.source.name,
        "revision": manifest.source.revision,
        "target_modules": [module for b in branches for module in (b.module, *b.also)],
        "fan_in_fan_out": _transposed(manifest),
        "inference_mode": True,
    }


def _transposed(manifest: Manifest) -> bool:
    """Whether the source's matrices are transformers' Conv1D, [in, out]."""
    matrices = manifest.quantization.matrices if manifest.quantization else ()
    rounded = {matrix.values: matrix.transposed for matrix in matrices}
    return any(rounded.get(branch.weight, branch.transposed) for branch in manifest.branches)


def _own_config(branches: Sequence[Branch]) -> dict[str, Any]:
    """Return what the kind of the branches adds; a bundle has one kind."""
    config = adapter_of(branches[0]).peft_config(branches)
    if config is None:
        raise InputError(
            f"PEFT has no adapter of the kind {branches[0].kind}: write NAME.onnx_adapter or NAME.safetensors instead, "
            "or use zoedge merge"
        )
    return config


def _task_type(manifest: Manifest, classifier: str | None) -> str | None:
    """Return PEFT's name of the task; None is its general model, which any other task uses."""
    if manifest.task == "text-classification" and classifier in _CLASSIFIERS:
        return "SEQ_CLS"
    causal = manifest.text is not None and manifest.text.mask_id is None
    label_words = manifest.text is not None and manifest.text.template is not None
    return "CAUSAL_LM" if causal and (manifest.task == "text-generation" or label_words) else None


def _bias_key(name: str, targets: Set[str]) -> str:
    module = _module(name)
    return f"{_PREFIX}{module}.base_layer.bias" if module in targets else f"{_PREFIX}{name}"


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _under(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")
