"""Restricts a vocabulary to the label words: classification by the next or the masked word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .graph import Graph
from .head import find_head


def keep_label_words(graph: Graph, logits: str, ids: Sequence[int]) -> str:
    """Keep the logits of one token id per class, at one position.

    The rows of the head are taken before it multiplies where it is a float linear layer, so that its other
    rows cost nothing; else the finished logits are gathered.

    Args:
        graph: changed in place.
        logits: [batch, 1, vocabulary].
        ids: token ids in the order of the labels.

    Returns:
        Name of the logits [batch, classes].
    """
    words = graph.hold(np.asarray(ids, np.int64), "label_word_ids")
    head = find_head(graph, logits)
    if head is None or head.linear.quantized:
        logits = graph.add("Gather", logits, words, axis=-1)
        return graph.squeeze(logits, 1)
    node, stored = head.linear.node, head.linear
    rows = graph.add("Gather", stored.weight, words, axis=1 if stored.transposed else 0)
    if not stored.transposed:
        rows = graph.add("Transpose", rows, perm=[1, 0])  # MatMul reads [in, classes]
    graph.set_input(node, 1, _as_read(graph, rows, stored.dtype, stored.weight))
    for place, index in head.constants(graph):
        graph.set_input(place, index, graph.add("Gather", place.input[index], words, axis=-1))
    return graph.squeeze(logits, 1)


def _as_read(graph: Graph, value: str, dtype: int, weight: str) -> str:
    same = graph.initializers[weight].data_type == dtype
    return value if same else graph.add("Cast", value, to=dtype)
