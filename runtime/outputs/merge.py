"""Merging: the bundle's inference model with the tuned values put in, for a stock onnxruntime.

``model.onnx`` refers to its tensors by file name and offset. The merged tensors keep the layout of the
bundle's file, so the graph is copied byte for byte but for that name, which is replaced by one as long.
A branch that can't be added to its matrix (integers, or a matrix that something else reads) stays beside it:
then the graph is one with such branches as constants, and no name is replaced.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.files import new_folder
from zoedge.manifest import (
    ADAPTED_MODEL_FILE,
    ADAPTERS_FILE,
    MERGED_MODEL_FILE,
    MODEL_FILE,
    TELLS_APART,
    WEIGHTS_FILE,
    Branch,
    Manifest,
)
from zoedge.tensor_file import Entry, map_tensors, read_entries

from ..adapters.floats import FLOATS
from ..adapters.merging import add_branch
from .early_formats import merged_differs
from .float_file import write_float_file
from .metadata import add_feature_names

CONFIG_FILE = "config.json"  # where transformers keeps a model's labels
MERGED_WEIGHTS_FILE = "model.safetensors"  # the name that transformers looks for

Tensors = Mapping[str, NDArray[np.generic]]

_NOT_ALONE = (
    "the adapter of this run can't be merged: something else in the graph reads its matrices, too, and the bundle is "
    f"of an early format, which doesn't keep such branches apart: deploy its {ADAPTED_MODEL_FILE} with the file that "
    "zoedge adapter writes, or export and tune again"
)

# protobuf's bytes of one external-data entry: field 1 = key, field 2 = value, each with its length
_LOCATION = b"\n\x08location\x12"
_OFFSET = re.compile(rb"\n\x06offset\x12(.)(\d{1,20})", re.DOTALL)


def write_merged(
    bundle: Bundle, tensors: Tensors, output: str | Path, *, columns: Sequence[str] = ()
) -> None:
    """Write a folder that neither its users nor onnxruntime can tell from an ordinary exported model.

    It holds ``model.onnx``, ``model.safetensors`` under the source's own names, and the tokenizer and
    configuration files of the bundle. Beside one matrix block, memory holds nothing of the model.
    Where branches stay apart (``Manifest.kept_apart``), and of a quantised bundle, ``model.onnx`` reads the bundle's
    matrices and the branches from files of their own. Then ``model.safetensors`` is float32, with rounded matrices
    turned back and the branches added, and is left out where one can't be added there either.

    Args:
        bundle: the bundle that was tuned.
        tensors: the tuned values by parameter name, as ``Run.weights`` returns them.
        output: a folder that doesn't exist yet.
        columns: which columns of a table the only input is made of (``Run.facts.columns``); ``model.onnx`` tells
            them in its metadata as ``feature_names``, a JSON list, unless the source's own are in it already.

    Raises:
        InputError: ``output`` exists, or the bundle is of an early format and has a branch that would stay apart.
        BundleError: the bundle's files don't hold what its manifest says.
    """
    manifest, output = bundle.manifest, Path(output)
    entries = read_entries(bundle.path(WEIGHTS_FILE))
    apart = manifest.kept_apart
    added = [branch for branch in manifest.branches if branch not in apart]
    _check_branches(manifest, added, entries)
    names = set(manifest.factors)
    dense = {name: value for name, value in tensors.items() if name not in names}
    _check_places(dense, entries, bundle.path(WEIGHTS_FILE))
    factors = _factors(bundle, tensors)
    graph = bundle.path(MERGED_MODEL_FILE if apart else MODEL_FILE)
    changed = [*dense, *(branch.weight for branch in added)]
    _check_reached(graph.read_bytes(), {name: entries[name].offset for name in changed}, graph)
    as_they_are = bool(apart) or manifest.quantization is not None
    weights = WEIGHTS_FILE if as_they_are else MERGED_WEIGHTS_FILE
    with new_folder(output) as folder:
        raw = graph.read_bytes()
        (folder / MODEL_FILE).write_bytes(raw if as_they_are else _renamed(raw, graph))
        add_feature_names(folder / MODEL_FILE, () if manifest.feature_names else columns)
        _copy_with(bundle.path(WEIGHTS_FILE), folder / weights, dense)
        for branch in added:
            add_branch(folder / weights, entries[branch.weight], branch, factors)
        if added and manifest.format < TELLS_APART:
            stored = {entries[branch.weight].dtype for branch in added}
            branches = bundle.path(ADAPTED_MODEL_FILE)
            if merged_differs(folder / MODEL_FILE, branches, factors, dense, stored):
                raise InputError(_NOT_ALONE)
        if apart:
            _copy_with(bundle.path(ADAPTERS_FILE), folder / ADAPTERS_FILE, factors)
        if manifest.quantization is not None and not manifest.no_floats_of(entries):
            write_float_file(folder / MERGED_WEIGHTS_FILE, folder / weights, manifest, factors)
        _copy_sources(bundle, folder)


def _factors(bundle: Bundle, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
    """Return every LoRA factor: as tuned, or as exported."""
    if not bundle.manifest.branches:
        return {}
    path = bundle.path(ADAPTERS_FILE)
    stored = map_tensors(path)
    factors = {name: tensors.get(name, stored[name]) for name in bundle.manifest.factors}
    _check_places(factors, read_entries(path), path)
    return factors


def _copy_with(source: Path, copy: Path, values: Tensors) -> None:
    """Copy a safetensors file with some tensors replaced by others of the same shape and type."""
    shutil.copyfile(source, copy)
    entries = read_entries(copy)
    with copy.open("r+b") as file:
        for name, value in values.items():
            file.seek(entries[name].offset)
            file.write(np.ascontiguousarray(value).reshape(-1).data)


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


def _check_branches(manifest: Manifest, added: Sequence[Branch], entries: Mapping[str, Entry]) -> None:
    """Raise where adding a branch to its weight isn't what the branch does: formats before 3 don't tell."""
    tied = {p.name: p.tied_to for p in manifest.parameters if manifest.format < TELLS_APART}
    for branch in added:
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


def _check_places(values: Tensors, entries: Mapping[str, Entry], path: Path) -> None:
    """Raise where a tuned tensor isn't what lies in the file it goes into."""
    for name, value in values.items():
        entry = entries.get(name)
        if entry is None or entry.shape != value.shape or FLOATS.get(entry.dtype) != value.dtype.str:
            raise BundleError(
                f"the tuned {name} ({value.dtype} {list(value.shape)}) has no place in "
                f"{path}: merge with the bundle that was tuned"
            )


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
