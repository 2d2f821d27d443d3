"""Plausible inputs for an ONNX graph of which nothing but its inputs' types is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError, near
from zoedge.manifest import Dim, Port

from ..surgery.graph import Graph
from .samples import like_samples

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, SampleInputs

_MOVES = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze")
_IMAGE_STEP = 32  # networks halve an image up to five times


def onnx_samples(
    graph: Graph, ports: tuple[Port, ...], axes: Mapping[str, int], examples: Mapping[str, Any] | None
) -> SampleInputs:
    """Return a generator of inputs.

    Args:
        graph: tells which integers index a table, and how long that is.
        ports: the graph's inputs; fixed sizes are kept, a fixed batch too.
        axes: input -> axis of the batch.
        examples: arrays to imitate in range and in the sizes of dynamic axes; None draws floats from a
            standard normal and integers from what they index.

    Raises:
        InputError: examples for other inputs, or of other shapes.
    """
    if examples is not None:
        arrays = {name: np.asarray(value) for name, value in examples.items()}
        return like_samples(arrays, _shapes(ports, axes, arrays))
    limits = {port.name: _limit(graph, port.name) for port in ports}
    batch_names = {port.shape[axes[port.name]] for port in ports} - {""}

    def sample(rng: np.random.Generator, batch: int, length: int) -> Arrays:
        arrays = {}
        for port in ports:
            image = len(port.shape) == 4 and port.dtype.startswith("float")
            free = _IMAGE_STEP * (2 + length % 2) if image else length
            shape = tuple(
                dim
                if isinstance(dim, int)
                else batch
                if axis == axes[port.name] or dim in batch_names
                else free
                for axis, dim in enumerate(port.shape)
            )
            arrays[port.name] = _draw(rng, port, shape, limits[port.name])
        return arrays

    return sample


def _shapes(
    ports: tuple[Port, ...], axes: Mapping[str, int], examples: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, tuple[Dim, ...]]:
    names = [port.name for port in ports]
    for name in [*examples, *names]:
        if name not in names:
            raise InputError(f"example_inputs names {name}, which is no input{near(name, names)}")
        if name not in examples:
            raise InputError(f"example_inputs lacks {name}: the graph's inputs are {', '.join(names)}")
    shapes: dict[str, tuple[Dim, ...]] = {}
    for port in ports:
        given = examples[port.name].shape
        if len(given) != len(port.shape) or any(
            isinstance(d, int) and d != n for d, n in zip(port.shape, given, strict=True)
        ):
            raise InputError(
                f"example_inputs has {port.name} of shape {list(given)}: the graph takes {list(port.shape)}"
            )
        dynamic = [axes[port.name]] if isinstance(port.shape[axes[port.name]], str) else []
        shapes[port.name] = tuple("batch" if axis in dynamic else size for axis, size in enumerate(given))
    return shapes


def _draw(
    rng: np.random.Generator, port: Port, shape: tuple[int, ...], limit: int | None
) -> np.ndarray[Any, Any]:
    dtype = np.dtype(port.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if "mask" in port.name:
        return np.ones(shape, dtype)
    if dtype == np.uint8 and limit is None:
        limit = 256  # pixels
    return rng.integers(0, limit or 2, shape).astype(dtype)


def _limit(graph: Graph, name: str) -> int | None:
    """Return the length of the table that an input's integers index."""
    waiting = [name]
    while waiting:
        value = waiting.pop()
        for node in graph.consumers(value):
            if node.op_type == "Gather" and list(node.input)[1] == value:
                rows = graph.shape(node.input[0])
                if rows:
                    return rows[0]
            elif node.op_type in _MOVES:
                waiting += node.output
    return None
