"""What export adds to a graph, under names that no source has: ``loss`` is ``zoedge/loss`` inside the graphs.

The manifest, the data and objectives use the plain names. Graphs of format 1 have the plain names inside, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

LOSS, WEIGHT, LOGITS, FEATURES = "loss", "weight", "logits", "features"
LABELS, POSITIONS = "labels", "label_positions"
PREDICTIONS = "predictions"  # an output of token tasks: which logit is the largest at each label position
PREDICT = "predict"  # an optional bool input of their graphs: unless it is true, that output is empty

_PREFIX = "zoedge/"
OWN = (LOSS, WEIGHT, LOGITS, FEATURES, LABELS, POSITIONS, PREDICTIONS, PREDICT)
_SIDES = (":x", ":y")  # MODULE:x and MODULE:y, what flows into and out of a matrix beside a LoRA branch

T = TypeVar("T")


def in_graph(name: str) -> str:
    """Return what one of our names is inside a graph."""
    return _PREFIX + name


def plain(name: str) -> str:
    """Return what a graph's name is outside of it."""
    rest = name.removeprefix(_PREFIX)
    return rest if rest in OWN or rest.endswith(_SIDES) else name


def named_in_graph(arrays: Mapping[str, T]) -> dict[str, T]:
    """Return arrays of ours by their names inside the graphs, where a model's input may have the same plain name."""
    return {in_graph(name): array for name, array in arrays.items()}


def given(arrays: Mapping[str, T], name: str) -> T:
    """Return what is given for a graph's input: under its very name, its plain one, or its newer one.

    Raises:
        KeyError: nothing is given.
    """
    for known in (name, plain(name), in_graph(name)):
        if known in arrays:
            return arrays[known]
    raise KeyError(name)


def output_of(outputs: Iterable[str], name: str) -> str:
    """Return which of a graph's outputs is meant by a name."""
    return in_graph(name) if in_graph(name) in outputs else name
