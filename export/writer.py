"""Writes a bundle: graphs, tensors and manifest, checked before the folder gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
from msgspec import structs
from onnx import TensorProto

from zoedge.bundle import Bundle, encode_manifest
from zoedge.errors import ZoedgeError
from zoedge.files import new_folder
from zoedge.installed import version
from zoedge.manifest import (
    ACTIVATIONS_FILE,
    ADAPTED_MODEL_FILE,
    ADAPTERS_FILE,
    FORMAT_VERSION,
    LOSS_FILE,
    MANIFEST_FILE,
    MERGED_MODEL_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    Manifest,
    Quantization,
    said_apart,
)

from .adapters.base import with_room
from .assemble import Assembled, Request, assemble
from .exported import Exported
from .external import write_graph
from .forms.write import write_forms
from .liveness import find_dead
from .ports import port_of
from .resolution import measure_resolution
from .surgery.graph import Graph
from .surgery.request_error import RequestError
from .surgery.trainables import quantized_op, some
from .tensor_writer import Written, write_tensors
from .verify import verify_values
from .verify_rows import company

Say = Callable[[str], None]

_ROUNDED = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def write_bundle(exported: Exported, request: Request, output: Path, say: Say) -> Bundle:
    """Write, check and open a bundle.

    Tensors without any effect on the loss are frozen and named to ``say``.

    Args:
        exported: the source.
        request: what to train.
        output: the bundle's folder; must not exist or be empty.
        say: is told what the user should know.

    Raises:
        InputError: the request doesn't fit the model, onnxruntime can't run it, or ``output`` exists.
        ZoedgeError: the bundle computes something else than its source; nothing is left behind.
    """
    exported = with_room(exported, request.branches)
    first = assemble(exported, request)  # before anything large is written
    notes: list[str] = []
    with new_folder(output) as folder:
        made = write_graphs(folder, exported, request, first)
        if exported.early_rows and not made.exported.early_rows:
            notes.append(
                "the last layer is computed at all positions, as computing it at those with a label gives other "
                "values: steps take longer, with the same results"
            )
        exported, assembled, manifest = made.exported, made.assembled, made.manifest
        if exported.quantization is not None:
            measured = _measured(folder, exported, manifest, exported.quantization, made.error)
            manifest = structs.replace(manifest, quantization=measured)
        coarse = _is_coarse(exported)
        mixing = company(folder, exported, manifest, coarse=coarse)
        notes += [mixing] if mixing is not None else []
        manifest = write_forms(
            folder, exported, assembled, manifest, made.weights, coarse=coarse, say=notes.append
        )
        (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
        Bundle.open(folder)
    if manifest.quantization is not None:
        say(str(manifest.quantization))
    notes += _apart(manifest, exported)
    for note in notes:
        say(note)
    if assembled.beside:
        say(
            f"no {request.branches.label} branch lies beside {some(assembled.beside)} (read by "
            f"{', '.join(assembled.readers)}), as it needs the product of an activation and one stored matrix of two "
            "axes: name them in --train to train them"
        )
    if assembled.frozen:
        say(f"left frozen, as they have no effect on the loss: {', '.join(assembled.frozen)}")
    return Bundle.open(output, verify=False)


def _apart(manifest: Manifest, exported: Exported) -> list[str]:
    """Return what a user should know of branches that merging keeps apart, but for those of ``--quantize``."""
    said = said_apart(manifest.no_floats_of(exported.weights))
    files = "" if exported.source.kind == "onnx" else ", so merging writes no model.safetensors"
    never = any(branch.unmergeable for branch in manifest.branches)
    how = "apart" if never else "as products"
    return [f"a merged model.onnx keeps branches {how}: {said}{files}"] if said else []


class Made(NamedTuple):
    """The graphs in a folder; ``error`` is how far their logits are from the source's."""

    exported: Exported
    assembled: Assembled
    manifest: Manifest
    weights: Written
    error: float


def write_graphs(folder: Path, exported: Exported, request: Request, first: Assembled) -> Made:
    """Write tensors and graphs, and compare what they compute with the source.

    Args:
        folder: is filled.
        exported: the source; comes back without early rows where those don't fit it.
        request: what to train.
        first: what ``assemble`` made of both.

    Raises:
        InputError: nothing of the request has an effect, or onnxruntime can't run a graph.
        ZoedgeError: a graph computes something else than its source.
    """
    weights = write_tensors(folder / WEIGHTS_FILE, exported.weights, _bfloat16(exported))
    files = {WEIGHTS_FILE: weights.sha256} | _write_files(folder, exported)
    files[MODEL_FILE] = write_graph(folder, MODEL_FILE, _deployed(exported), weights, None)
    try:
        return _write_compared(folder, exported, request, first, weights, files)
    except RequestError:
        raise
    except ZoedgeError:
        plainer = _without_early_rows(exported, request, first)
        if plainer is None:
            raise
        return _write_compared(folder, plainer[0], request, plainer[1], weights, files)


def _write_compared(
    folder: Path,
    exported: Exported,
    request: Request,
    first: Assembled,
    weights: Written,
    files: dict[str, str],
) -> Made:
    assembled, manifest = _write_live(folder, exported, request, first, weights, files)
    error = verify_values(folder, exported, manifest, coarse=_is_coarse(exported))
    return Made(exported, assembled, manifest, weights, error)


def _deployed(exported: Exported) -> onnx.ModelProto:
    """Return the inference graph with nothing but what its outputs need."""
    graph = Graph(exported.model)
    inputs = [value for value in exported.model.graph.input if value.name in graph.inputs]
    return graph.finish(inputs, list(exported.model.graph.output))


def _without_early_rows(
    exported: Exported, request: Request, failed: Assembled
) -> tuple[Exported, Assembled] | None:
    """Return what is tried where rows of the last layer can't be left out; None where that is no other graph."""
    whole = replace(exported, early_rows=False)
    assembled = assemble(whole, request)
    same = list(assembled.loss.graph.node) == list(failed.loss.graph.node)
    return None if same else (whole, assembled)


def _measured(
    folder: Path, exported: Exported, manifest: Manifest, quantization: Quantization, error: float
) -> Quantization:
    """Add what rounding did to the logits and the loss."""
    noise, least_eps = measure_resolution(folder, exported, manifest)
    return structs.replace(quantization, error=error, noise=noise, least_eps=least_eps)


def _write_live(
    folder: Path,
    exported: Exported,
    request: Request,
    assembled: Assembled,
    weights: Written,
    files: dict[str, str],
) -> tuple[Assembled, Manifest]:
    """Write the graphs that tuning reads, again without the tensors that turn out to have no effect."""
    dead: set[str] = set()
    while True:
        written = _write_trainable(folder, assembled, weights)
        manifest = _manifest(exported, assembled, files | written)
        found = find_dead(folder, exported, manifest)
        if not found:
            return assembled, manifest
        dead |= _without_effect(found, assembled)
        assembled = assemble(exported, request, dead)


def _without_effect(found: Collection[str], assembled: Assembled) -> set[str]:
    """Return what to leave out: dense tensors by name, and the matrices whose branches do nothing."""
    weights = {factor: branch.weight for branch in assembled.branches for factor in branch.tensors.values()}
    return {weights.get(name, name) for name in found}


def _write_trainable(folder: Path, assembled: Assembled, weights: Written) -> dict[str, str]:
    files: dict[str, str] = {}
    adapters = None
    if assembled.adapted is not None:
        adapters = write_tensors(folder / ADAPTERS_FILE, assembled.factors)
        files[ADAPTERS_FILE] = adapters.sha256
        files[ADAPTED_MODEL_FILE] = write_graph(
            folder, ADAPTED_MODEL_FILE, assembled.adapted, weights, adapters
        )
    if assembled.merged is not None:
        files[MERGED_MODEL_FILE] = write_graph(folder, MERGED_MODEL_FILE, assembled.merged, weights, adapters)
    if assembled.activations is not None:
        files[ACTIVATIONS_FILE] = write_graph(folder, ACTIVATIONS_FILE, assembled.activations, weights, None)
    files[LOSS_FILE] = write_graph(folder, LOSS_FILE, assembled.loss, weights, adapters)
    return files


def _write_files(folder: Path, exported: Exported) -> dict[str, str]:
    """Copy tokenizer and configuration files as the source had them."""
    digests = {}
    for name, raw in sorted(exported.files.items()):
        (folder / name).write_bytes(raw)
        digests[name] = hashlib.sha256(raw).hexdigest()
    return digests


def _manifest(exported: Exported, assembled: Assembled, files: dict[str, str]) -> Manifest:
    graph = Graph(exported.model)
    inputs = [value for value in exported.model.graph.input if value.name in graph.inputs]
    return Manifest(
        format=FORMAT_VERSION,
        zoedge=version(),
        task=exported.task,
        loss=exported.loss,
        source=exported.source,
        inputs=assembled.inputs,
        targets=assembled.targets,
        outputs=assembled.outputs,
        model_inputs=tuple(port_of(value) for value in inputs),
        model_outputs=tuple(port_of(value) for value in exported.model.graph.output),
        parameters=assembled.parameters,
        frozen=assembled.untrainable,
        branches=assembled.branches,
        head=assembled.head,
        labels=exported.labels,
        feature_names=exported.feature_names,
        text=exported.text,
        image=exported.image,
        quantization=exported.quantization,
        files=dict(sorted(files.items())),
    )


def _bfloat16(exported: Exported) -> dict[str, str]:
    tensors = exported.model.graph.initializer
    return {tensor.name: "BF16" for tensor in tensors if tensor.data_type == TensorProto.BFLOAT16}


def _is_coarse(exported: Exported) -> bool:
    """Whether some arithmetic is rounded so that its results depend on the order of sums.

    That is to 16 bits or less, or of probabilities whose logarithms are taken.
    """
    graph = Graph(exported.model)
    rounded = any(tensor.data_type in _ROUNDED for tensor in graph.initializers.values())
    return exported.rounded or rounded or quantized_op(graph) is not None
