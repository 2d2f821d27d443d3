"""Rounds the frozen matrices of a source before its bundle is assembled: ``zoedge export --quantize``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx

from zoedge.errors import InputError, near
from zoedge.manifest import Quantization, Quantize

from .exported import Exported
from .loss_graph import TOKEN_TASKS
from .rows_first import head_of
from .surgery.graph import Array, Graph
from .surgery.quantize import find_quantizable, quantize_linears
from .surgery.request_error import RequestError
from .surgery.trainables import KEYWORDS, matching, quantized_op

KINDS: tuple[str, ...] = get_args(Quantize)


def quantized(exported: Exported, kind: str, train: Sequence[str]) -> Exported:
    """Return the source with the frozen matrices of its linear layers in int8 or int4.

    Embeddings, biases and norms stay float32, and so does the head of a classifier, which is small and may be
    trained. A vocabulary-wide head is rounded unless it is trained: one that is tied to the embedding gets an
    integer copy of its own, a quarter or an eighth of its size, as the float one would be copied too when
    onnxruntime packs it, and would take a third of a short forward pass. With label words it stays float32,
    since only their rows are read.

    Args:
        exported: the source; not changed.
        kind: none, int8 or int4.
        train: entries of ``--train``.

    Raises:
        InputError: an unknown kind, a source without a float32 matrix, or entries that name a rounded matrix.
    """
    if kind not in KINDS:
        raise InputError(f"--quantize {kind} is none of {', '.join(KINDS)}{near(kind, KINDS)}")
    if kind == "none":
        return exported
    graph = Graph(exported.model)
    op = quantized_op(graph)
    if op is not None:
        raise RequestError(
            f"--quantize {kind} can't round a graph that is quantised already (this one computes with {op})",
            "quantize",
        )
    targets = find_quantizable(graph, _kept(exported, graph, train))
    if not targets:
        raise RequestError(
            f"--quantize {kind} finds no frozen float32 matrix of a linear layer (convolutions, embeddings and "
            "classifiers stay as they are)",
            "quantize",
        )
    _refuse_trained(train, targets, kind)
    tensors, matrices = quantize_linears(graph, targets, exported.weights, kind)
    model = graph.finish(
        [value for value in exported.model.graph.input if value.name in graph.inputs],
        list(exported.model.graph.output),
    )
    model.graph.value_info.extend(_logits_info(exported))
    gone = set(targets).difference(tensor.name for tensor in model.graph.initializer)
    kept: dict[str, Array] = {name: array for name, array in exported.weights.items() if name not in gone}
    return replace(
        exported,
        model=model,
        weights=kept | {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        parameters=tuple(name for name in exported.parameters if name not in gone),
        quantization=Quantization(kind=kind, matrices=matrices),
    )


def _kept(exported: Exported, graph: Graph, train: Sequence[str]) -> frozenset[str]:
    """Return the tensors of the head where they stay as they are."""
    by_words = exported.text is not None and bool(exported.text.label_word_ids)
    vocabulary = exported.task in TOKEN_TASKS and not by_words
    chain = head_of(graph, exported)
    if chain is None or (vocabulary and "head" not in train):
        return frozenset()
    return chain.tensors


def _refuse_trained(train: Sequence[str], targets: Collection[str], kind: str) -> None:
    for entry in train:
        named = list(targets) if entry == "full" else [] if entry in KEYWORDS else matching(entry, targets)
        if named:
            raise RequestError(
                f"--train {entry} names {named[0]}, which --quantize {kind} rounds, and rounded weights don't "
                "take small steps"
            )


def _logits_info(exported: Exported) -> list[onnx.ValueInfoProto]:
    """Return the declared shape of logits that are no output of the graph."""
    return [value for value in exported.model.graph.value_info if value.name == exported.logits]
