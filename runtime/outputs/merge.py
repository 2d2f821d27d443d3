"""Merging: the bundle's inference model with the tuned values put in, for a stock onnxruntime.

``model.onnx`` refers to its tensors by file name and offset. The merged tensors keep the layout of the
bundle's file, so the graph is copied byte for byte but for that name, which is replaced by one as long.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.files import new_folder
from zoedge.manifest import ADAPTED_MODEL_FILE, ADAPTERS_FILE, MODEL_FILE, WEIGHTS_FILE, LoraBranch, Manifest
from zoedge.tensor_file import Entry, map_tensors, read_entries

from .floats import FLOATS, item_bytes, read_floats, write_floats
from .merge_quantized import write_merged
from .metadata import add_feature_names

CONFIG_FILE = "config.json"  # where transformers keeps a model's labels
MERGED_WEIGHTS_FILE = "model.safetensors"  # the name that transformers looks for

Tensors = Mapping[str, NDArray[np.generic]]

_BLOCK_ELEMENTS = 1 << 20  # of float64 work space

# protobuf's bytes of one external-data entry: field 1 = key, field 2 = value, each with its length
_LOCATION = b"\n\x08location\x12"
_OFFSET = re.compile(rb"\n\x06offset\x12(.)(\d{1,20})", re.DOTALL)


def merge(bundle: Bundle, tensors: Tensors, output: str | Path, *, columns: Sequence[str] = ()) -> None:
    """Write a folder that neither its users nor onnxruntime can tell from an ordinary exported model.

    It holds ``model.onnx``, ``model.safetensors`` under the source's own names, and the tokenizer and
    configuration files of the bundle. Beside one matrix block, memory holds nothing of the model.
    Of a quantised bundle, ``model.onnx`` reads the rounded matrices and the branches from files of their own, and
    ``model.safetensors`` holds what those matrices are in float32, with the branches added.

    Args:
        bundle: the bundle that was tuned.
        tensors: the tuned values by parameter name, as ``Run.weights`` returns them.
        output: a folder that doesn't exist yet.
        columns: which columns of a table the only input is made of (``Run.facts.columns``); ``model.onnx`` tells
            them in its metadata as ``feature_names``, a JSON list, unless the source's own are in it already.

    Raises:
        InputError: ``output`` exists, or an adapter lies beside a weight it can't be added to.
        BundleError: the bundle's files don't hold what its manifest says.
    """
    columns = () if bundle.manifest.feature_names else columns
    output, quantization = Path(output), bundle.manifest.quantization
    if quantization is not None:
        names = {name for branch in bundle.manifest.lora for name in (branch.a, branch.b)}
        dense = {name: value for name, value in tensors.items() if name not in names}
        stored = map_tensors(bundle.path(ADAPTERS_FILE)) if names else {}
        factors = {name: tensors.get(name, stored[name]) for name in sorted(names)}
        with new_folder(output) as folder:
            write_merged(bundle, quantization, dense, factors, folder, MERGED_WEIGHTS_FILE)
            add_feature_names(folder / MODEL_FILE, columns)
            _copy_sources(bundle, folder)
        return
    entries = read_entries(bundle.path(WEIGHTS_FILE))
    _check_branches(bundle.manifest, entries)
    dense = _dense(bundle, tensors, entries)
    graph = bundle.path(MODEL_FILE).read_bytes()
    changed = [*dense, *(branch.weight for branch in bundle.manifest.lora)]
    _check_reached(graph, {name: entries[name].offset for name in changed}, bundle.path(MODEL_FILE))
    with new_folder(output) as folder:
        (folder / MODEL_FILE).write_bytes(_renamed(graph, bundle.path(MODEL_FILE)))
        add_feature_names(folder / MODEL_FILE, columns)
        shutil.copyfile(bundle.path(WEIGHTS_FILE), folder / MERGED_WEIGHTS_FILE)
        with (folder / MERGED_WEIGHTS_FILE).open("r+b") as file:
            for name, value in dense.items():
                file.seek(entries[name].offset)
                file.write(value.reshape(-1).data)
            factors = map_tensors(bundle.path(ADAPTERS_FILE)) | dict(tensors) if bundle.manifest.lora else {}
            for branch in bundle.manifest.lora:
                _add(file, entries[branch.weight], branch, factors)
        _copy_sources(bundle, folder)


def _copy_sources(bundle: Bundle, folder: Path) -> None:
    """Copy the tokenizer and the configuration, which learns the labels of a new head."""
    for name in sorted(filter(_is_sources, bundle.manifest.files)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(name), folder / name)
    head, config = bundle.manifest.head, folder / CONFIG_FILE
    if head is not None and head.fresh and bundle.manifest.labels:
        known = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        names = {str(i): label for i, label in enumerate(bundle.manifest.labels)}
        known |= {"id2label": names, "label2id": {label: int(i) for i, label in names.items()}}
        config.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_sources(name: str) -> bool:
    """Whether a file of a bundle is the source's own: a tokenizer, a configuration."""
    return not name.endswith(".onnx") and name not in (WEIGHTS_FILE, ADAPTERS_FILE)


def _check_branches(manifest: Manifest, entries: Mapping[str, Entry]) -> None:
    """Raise where adding a branch to its weight isn't what the branch does."""
    tied = {p.name: p.tied_to for p in manifest.parameters}
    for branch in manifest.lora:
        stored = entries[branch.weight].dtype if branch.weight in entries else "packed"
        if stored not in FLOATS:
            reason = f"which is stored as {stored}"
        elif branch.rounded:
            reason = "which the graph rounds to integers"
        elif tied.get(branch.weight):
            reason = f"which {tied[branch.weight][0]} shares"
        else:
            continue
        raise InputError(
            f"the adapter of {branch.module} can't be merged into {branch.weight}, {reason}: "
            f"deploy the bundle's {ADAPTED_MODEL_FILE} with the file that zoedge adapter writes"
        )


def _dense(bundle: Bundle, tensors: Tensors, entries: Mapping[str, Entry]) -> dict[str, NDArray[np.generic]]:
    """Return the tuned tensors that are the model's own, checked against the file they go into."""
    factors = {name for branch in bundle.manifest.lora for name in (branch.a, branch.b)}
    dense = {name: value for name, value in tensors.items() if name not in factors}
    for name, value in dense.items():
        entry = entries.get(name)
        if entry is None or entry.shape != value.shape or FLOATS.get(entry.dtype) != value.dtype.str:
            raise BundleError(
                f"the tuned {name} ({value.dtype} {list(value.shape)}) has no place in "
                f"{bundle.path(WEIGHTS_FILE)}: merge with the bundle that was tuned"
            )
    return dense


def _check_reached(graph: bytes, offsets: Mapping[str, int], path: Path) -> None:
    """Raise where the graph doesn't read a tensor that tuning changed: its output would stay the old one."""
    matches = _OFFSET.finditer(graph)
    used = {int(digits[: length[0]]) for length, digits in (m.groups() for m in matches)}
    for name, offset in offsets.items():
        if offset not in used:
            raise BundleError(f"{path} doesn't read {name} from {WEIGHTS_FILE}: export the bundle again")


def _renamed(graph: bytes, path: Path) -> bytes:
    """Return the graph with every location set to the merged file's name, padded with "./" to its length."""
    old = bytes([len(WEIGHTS_FILE)]) + WEIGHTS_FILE.encode()
    new = bytes([len(WEIGHTS_FILE)]) + f"./{MERGED_WEIGHTS_FILE}".encode()
    if len(old) != len(new):
        raise AssertionError("the names must be equally long")
    count = graph.count(_LOCATION)
    if count == 0 or count != graph.count(_LOCATION + old):
        raise BundleError(f"{path} reads tensors from elsewhere than {WEIGHTS_FILE}: export the bundle again")
    return graph.replace(_LOCATION + old, _LOCATION + new)


def _add(file: BinaryIO, entry: Entry, branch: LoraBranch, tensors: Tensors) -> None:
    """W += (alpha / rank) B A in float64, rounded once; W is [out, in], or [in, out] where transposed."""
    a = tensors[branch.a].astype(np.float64)  # [rank, in]
    b = tensors[branch.b].astype(np.float64) * (branch.alpha / branch.rank)  # [out, rank]
    left, right = (a.T, b.T) if branch.transposed else (b, a)
    if entry.shape != (left.shape[0], right.shape[1]):
        raise BundleError(
            f"{branch.weight} is {list(entry.shape)} and its adapter {[left.shape[0], right.shape[1]]}: "
            "export the bundle again"
        )
    size = item_bytes(entry.dtype)
    rows = max(1, _BLOCK_ELEMENTS // right.shape[1])
    row_bytes = right.shape[1] * size
    for start in range(0, len(left), rows):
        block = left[start : start + rows] @ right
        file.seek(entry.offset + start * row_bytes)
        block += read_floats(file.read(block.size * size), entry.dtype).reshape(block.shape)
        file.seek(entry.offset + start * row_bytes)
        file.write(write_floats(block, entry.dtype))
