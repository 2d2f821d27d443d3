"""Which axis of each input, and of an output, is the batch: found by running other rows, and fewer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoedge.errors import InputError
from zoedge.manifest import Dim, Port

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, Reference, SampleInputs

Array = np.ndarray[Any, Any]
Axes = Mapping[str, int]  # input -> axis

INDEPENDENT = (
    1e-3  # of the largest value: rows that differ by less beside others only add up in another order
)
_CLEARLY = 0.1  # of another choice's error
_TRIES, _MOST = 64, 4096  # choices that are run, and that are looked at
_BATCH, _FEWER, _LENGTH = (
    3,
    (2, 0),
    8,
)  # rows of a pass, those of them that are run again, and other axes' size
_NAMES = ("batch", "batch_size", "n", "b", "bs", "num_rows")


class BatchAxes(NamedTuple):
    """Where the batch is.

    Attributes:
        inputs: input -> axis.
        output: the output's axis.
    """

    inputs: dict[str, int]
    output: int


class _Fit(NamedTuple):
    axes: BatchAxes
    error: float  # how far rows are from what they are beside others


def find_batch_axes(
    ports: Sequence[Port],
    output: str,
    reference: Reference,
    sampler: Callable[[Axes], SampleInputs],
    file: str,
) -> BatchAxes:
    """Return the axes along which rows of the inputs are rows of the output, each computed by itself.

    Axes of a dynamic size are tried first, the first axis of all, and those that share a name together. Where
    no choice makes rows independent of each other (a scale for the whole pass), the first is taken that no later
    one is clearly better than.

    Args:
        ports: the graph's inputs; a dimension without a name is "".
        output: what is looked at.
        reference: runs the source.
        sampler: axes -> generator of inputs with the batch there.
        file: how messages call the source.

    Raises:
        InputError: an input has no axis that could be the batch, the source can't be run, or no axis of the
            output is the batch.
    """
    best: _Fit | None = None
    failure: InputError | None = None
    seen: tuple[int, ...] | None = None
    for axes in islice(_choices(ports, file), _TRIES):
        try:
            fit, shape = _try(ports, axes, output, reference, sampler(axes))
        except InputError as error:  # inputs of these sizes don't fit each other
            failure = failure or error
            continue
        seen = seen or shape
        if fit is not None and (best is None or fit.error < _CLEARLY * best.error):
            best = fit
        if best is not None and best.error < INDEPENDENT:
            break
    if best is not None:
        return best.axes
    if seen is None and failure is not None:
        raise failure
    raise InputError(
        f"no axis of the output {output} of {file}, of shape {list(seen or ())}, follows the batch of its inputs "
        f"({', '.join(f'{port.name} {_shown(port)}' for port in ports)}): export the file with one dynamic "
        "dimension for the batch, in its inputs and outputs"
    )


def _choices(ports: Sequence[Port], file: str) -> Iterator[dict[str, int]]:
    """Return choices of an axis for every input, the most plausible first."""
    options = []
    for port in ports:
        if not port.shape:
            raise InputError(
                f"the input {port.name} of {file} is a single number, with no axis for the batch: export the file "
                "with its value as a constant"
            )
        dynamic = [axis for axis, dim in enumerate(port.shape) if not isinstance(dim, int)]
        options.append(dynamic or list(range(len(port.shape))))
    every = (dict(zip((port.name for port in ports), axes, strict=True)) for axes in product(*options))
    choices = [*_by_name(ports), *islice(every, _MOST)]  # a product of many inputs is long
    fitting = [axes for axes in choices if _is_consistent(ports, axes)]
    return iter(sorted(fitting, key=lambda axes: _oddness(ports, axes)))


def _by_name(ports: Sequence[Port]) -> Iterator[dict[str, int]]:
    """Return the choice of each name that every input has."""
    for name in dict.fromkeys(dim for dim in ports[0].shape if isinstance(dim, str) and dim):
        if all(name in port.shape for port in ports):
            yield {port.name: port.shape.index(name) for port in ports}


def _is_consistent(ports: Sequence[Port], axes: Axes) -> bool:
    """Whether sizes agree, and a name that is the batch in one input is so in all."""
    dims = [port.shape[axes[port.name]] for port in ports]
    names = {dim for dim in dims if isinstance(dim, str) and dim}
    fixed = {dim for dim in dims if isinstance(dim, int)}
    others = {dim for port in ports for axis, dim in enumerate(port.shape) if axis != axes[port.name]}
    return len(fixed) <= 1 and not names & others


def _oddness(ports: Sequence[Port], axes: Axes) -> tuple[int, int, int]:
    dims = [port.shape[axes[port.name]] for port in ports]
    usual = all(isinstance(dim, str) and dim.lower() in _NAMES for dim in dims)
    return (not usual, len(set(dims)), sum(axes.values()))


def _try(
    ports: Sequence[Port], axes: dict[str, int], output: str, reference: Reference, sample: SampleInputs
) -> tuple[_Fit | None, tuple[int, ...]]:
    """Run a batch, and some of its rows again in another order, and compare; None where no axis follows."""
    fixed = [dim for port in ports if isinstance(dim := port.shape[axes[port.name]], int)]
    inputs = sample(np.random.default_rng(0), fixed[0] if fixed else _BATCH, _LENGTH)
    rows = list(range(fixed[0]))[::-1] if fixed else list(_FEWER)
    whole = _floats(reference(inputs)[output], output)
    again = _floats(reference(_taken(inputs, rows, axes))[output], output)
    count = int(inputs[ports[0].name].shape[axes[ports[0].name]])
    fits = [
        _Fit(BatchAxes(axes, axis), _difference(whole.take(rows, axis), again))
        for axis in range(whole.ndim)
        if whole.shape[axis] == count and _same_shape(whole.shape, again.shape, axis, len(rows))
    ]
    return min(fits, key=_order, default=None), whole.shape


def _order(fit: _Fit) -> tuple[float, int]:
    return (0.0 if fit.error < INDEPENDENT else fit.error, fit.axes.output)


def _taken(inputs: Arrays, rows: list[int], axes: Axes) -> Arrays:
    return {name: np.ascontiguousarray(array.take(rows, axes[name])) for name, array in inputs.items()}


def _same_shape(whole: tuple[int, ...], again: tuple[int, ...], axis: int, rows: int) -> bool:
    return again == (*whole[:axis], rows, *whole[axis + 1 :])


def _difference(a: Array, b: Array) -> float:
    scale = max(1e-3, float(np.abs(a, where=np.isfinite(a), out=np.zeros_like(a)).max(initial=0.0)))
    same = np.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
    error = np.abs(np.where(same, 0.0, a - b)).max(initial=0.0) / scale
    return math.inf if math.isnan(error) else float(error)


def _floats(value: object, output: str) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise InputError(f"the output {output} is no array of floats: name another with --output-name")
    return value.astype(np.float64)


def _shown(port: Port) -> list[Dim]:
    return [dim or "?" for dim in port.shape]
