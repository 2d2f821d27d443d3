"""Of which value an output is the softmax or the sigmoid, by the numbers of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..surgery.graph import Graph

Array = np.ndarray[Any, Any]

# how logits are made of a value z; two classes may come from one number, and one number from two
_SAME, _FIRST, _SECOND, _TWO, _FORWARD, _BACKWARD = "z", "[z, 0]", "[0, z]", "[z0, z1]", "z1 - z0", "z0 - z1"
_WIDTHS = {_FIRST: 1, _SECOND: 1, _TWO: 2, _FORWARD: 2, _BACKWARD: 2}  # of z
_ROUNDED, _EXACT, _RELATIVE = 5e-3, 3e-7, 1e-3  # of 8 bits; of what is clipped or a sigmoid; of float16
_OF_RANGE, _OF_LARGEST = 0.02, 1e-6  # no more than this of an output's range, no less of its largest value
_VARIES = 1e-3  # of the largest value: less is the same row again
_MOST_ORDERED = 1024  # classes whose order is looked for


@dataclass(frozen=True)
class Output:
    """Probabilities, or what may be some.

    Attributes:
        values: float64, of some runs of one size, by the file's own axes; exponentials where it gives logarithms.
        log: whether it gives logarithms.
        loss: cross-entropy or bce-with-logits.
        batch: the axis of the batch.
        shape: -1 where runs of other sizes differ.
        total: what stands for certainty: 1, or 100 of percentages.
        quantised: whether they may be rounded to 8 bits.
    """

    values: Sequence[Array]
    log: bool
    loss: str
    batch: int
    shape: tuple[int, ...]
    total: float
    quantised: bool = False

    @property
    def axis(self) -> int:
        """The axis of the classes: the last one beside the batch's."""
        last = len(self.shape) - 1
        return max(0, last if self.batch != last else last - 1)

    @cached_property
    def range(self) -> float:
        """How far a value of a row is from that of another at most."""
        return float(np.ptp(np.concatenate(self.values, axis=self.batch), axis=self.batch).max(initial=0.0))

    @property
    def varies(self) -> bool:
        """Whether rows differ by more than rounding."""
        return self.range > _VARIES * self.largest

    def tolerance(self, wanted: Array) -> Array:
        """Return how far a share of the total may be off."""
        least = _ROUNDED if self.quantised else _EXACT
        most = max(_OF_RANGE * self.range, _OF_LARGEST * self.largest) / self.total
        return np.asarray(np.minimum(least + _RELATIVE * wanted / self.total, most))

    @cached_property
    def largest(self) -> float:
        """The largest value."""
        return max(float(array.max(initial=0.0)) for array in self.values)


@dataclass(frozen=True)
class Logits:
    """A value, and how it becomes logits: by a shape, if it has another, then by the way, or an order of classes."""

    value: str
    way: str
    shape: tuple[int, ...] | None
    axis: int
    order: tuple[int, ...] = ()

    def words(self, output: Output) -> str:
        """Return what the output is of the value."""
        plain = "Softmax" if output.loss == "cross-entropy" else "Sigmoid"
        kind = "[1 - p, p]" if self.way in (_FIRST, _SECOND) else ("Log" if output.log else "") + plain
        kind = f"{kind} in another order of classes" if self.order else kind
        return kind if output.total == 1.0 else f"{kind} times {output.total:g}"

    def nodes(self, graph: Graph) -> tuple[tuple[onnx.NodeProto, ...], str]:
        """Return nodes that make the logits, and their name, which is new in the graph."""
        nodes: list[onnx.NodeProto] = []

        def add(op: str, *inputs: str, **attributes: Any) -> str:
            name = graph.fresh(f"zoedge/logits/{op}")
            nodes.append(helper.make_node(op, inputs, [name], name=f"{name}/node", **attributes))
            return name

        def whole(numbers: Iterable[int]) -> str:
            return add("Constant", value=numpy_helper.from_array(np.array([*numbers], np.int64)))

        z = self.value if self.shape is None else add("Reshape", self.value, whole(self.shape))
        if self.way in (_FIRST, _SECOND):
            zero = add("Sub", z, z)
            z = add("Concat", *((zero, z) if self.way == _SECOND else (z, zero)), axis=self.axis)
        elif self.way in (_FORWARD, _BACKWARD):
            first, second = (add("Gather", z, whole([place]), axis=self.axis) for place in (0, 1))
            z = add("Sub", *((second, first) if self.way == _FORWARD else (first, second)))
        if self.order:
            z = add("Gather", z, whole(self.order), axis=self.axis)
        return tuple(nodes), z


def find_activation(output: Output, sources: Mapping[str, Sequence[Array]]) -> Logits | None:
    """Return the value whose softmax or sigmoid an output is; None where there is none.

    Args:
        output: what is explained.
        sources: value -> what it was in the same runs; the first that fits is taken.
    """
    with np.errstate(all="ignore"):  # a value may be anything
        fits = (
            _fit(value, arrays, way, output) for value, arrays in sources.items() for way in _ways(output)
        )
        return next((logits for logits in fits if logits is not None), None)


def _fit(value: str, arrays: Sequence[Array], way: str, output: Output) -> Logits | None:
    pairs = zip(arrays, output.values, strict=True)
    made = [_logits(array, way, like.shape, output.axis) for array, like in pairs]
    shares = [_shares(logits, output) for logits in made if logits is not None]
    if len(shares) < len(made):
        return None
    order = () if _is_close(shares, output) else _order(shares, output) if way == _SAME else None
    shape: tuple[int, ...] | None = _target(way, output.shape, output.axis)
    if arrays[0].shape == _target(way, output.values[0].shape, output.axis):
        shape = None
    if order is None or (shape is not None and shape.count(-1) > 1):
        return None
    return Logits(value, way, shape, output.axis, order)


def _shares(logits: Array, output: Output) -> Array:
    """Return the probabilities of logits, shaped like the output."""
    if output.loss == "bce-with-logits":
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    logs = logits - np.logaddexp.reduce(logits, axis=output.axis, keepdims=True)
    return np.asarray(np.exp(logs if output.shape[output.axis] != 1 else logs.take([1], output.axis)))


def _is_close(shares: Sequence[Array], output: Output) -> bool:
    pairs = zip(shares, output.values, strict=True)
    return all(bool((np.abs(a - b / output.total) <= output.tolerance(b)).all()) for a, b in pairs)


def _order(shares: Sequence[Array], output: Output) -> tuple[int, ...] | None:
    """Return the classes in the output's order, where each fits one and no other."""
    classes = output.shape[output.axis] if len(output.shape) > 1 else 0
    if not 1 < classes <= _MOST_ORDERED:
        return None
    a, b = (
        np.concatenate([np.moveaxis(array, output.axis, 0).reshape(classes, -1) for array in arrays], axis=1)
        for arrays in (shares, output.values)
    )
    fits = np.array([(np.abs(a - row / output.total) <= output.tolerance(row)).all(axis=1) for row in b])
    if not ((fits.sum(axis=0) == 1).all() and (fits.sum(axis=1) == 1).all()):
        return None
    return tuple(int(place) for place in fits.argmax(axis=1))


def _ways(output: Output) -> tuple[str, ...]:
    width = output.shape[output.axis] if len(output.shape) > 1 else 0
    if output.loss == "bce-with-logits":
        return (_SAME, _FORWARD, _BACKWARD) if width == 1 else (_SAME,)
    pair = (_SECOND, _FIRST)
    return {0: (), 1: (*pair, _TWO), 2: (_SAME, *pair)}.get(width, (_SAME,))


def _target(way: str, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape that a value has before it becomes logits of an output's shape."""
    width = _WIDTHS.get(way)
    return shape if width is None else (*shape[:axis], width, *shape[axis + 1 :])


def _logits(z: Array, way: str, like: tuple[int, ...], axis: int) -> Array | None:
    """Return logits of an output of shape ``like``; None where a value has another number of elements."""
    shape = _target(way, like, axis)
    if z.size != math.prod(shape):
        return None
    z = z.reshape(shape)
    if way in (_FIRST, _SECOND):
        return np.concatenate([z - z, z] if way == _SECOND else [z, z - z], axis)
    if way in (_FORWARD, _BACKWARD):
        first, second = z.take([0], axis), z.take([1], axis)
        return np.asarray(second - first if way == _FORWARD else first - second)
    return z
