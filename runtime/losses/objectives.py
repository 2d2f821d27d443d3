"""Objectives: what a step's forward passes come down to, one number to minimise."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from zoedge.errors import InputError, near
from zoedge.manifest import Manifest
from zoedge.options import Direction, TuneOptions

from ..data.batches import Result, gather
from ..data.example import Array
from .metrics import METRICS

Score = Callable[[Mapping[str, Array], Mapping[str, Array]], Any]


class Objective(Protocol):
    """Reduces the results of one probe, all micro-batches of a step, to a number to minimise.

    ``outputs`` names the loss graph's outputs that it reads; None for all of them. ``maximised`` tells whether the
    number is minus what the user calls the objective.
    """

    outputs: tuple[str, ...] | None
    maximised: bool

    def __call__(self, results: Sequence[Result]) -> float:
        """Return the number; NaN or infinite where the outputs are."""


class Criterion(NamedTuple):
    """What tells a better evaluation from a worse one.

    Attributes:
        metric: its name among an evaluation's metrics.
        maximised: whether higher is better.
        name: what the user calls it.
    """

    metric: str = "loss"
    maximised: bool = False
    name: str = "loss"

    def better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another; NaN is better than none."""
        return value > than if self.maximised else value < than

    def told(self, value: float) -> str:
        """Return what the user should know at the first value."""
        what, better = ("maximised", "higher") if self.maximised else ("minimised", "lower")
        return (
            f"objective {self.name} is {value:.4g} at the first evaluation and is {what}: {better} is better"
        )

    def __str__(self) -> str:
        return f"{self.name}, {'maximised' if self.maximised else 'minimised'}"


def criterion_of(options: TuneOptions, metrics: Collection[str]) -> Criterion:
    """Return the criterion of a run whose evaluations have these metrics."""
    name = options.objective
    if name == "loss" or "objective" not in metrics:
        return Criterion()
    maximised = ":" not in name or options.objective_direction != "min"  # accuracy and f1 are
    return Criterion("objective", maximised, name)


class LossObjective:
    """sum(weight * loss) / sum(weight) in float64: the same for any split into micro-batches.

    The sums are exact before their one rounding (``math.fsum``), so the order of rows doesn't matter either.
    """

    outputs: tuple[str, ...] | None = ("loss", "weight")
    maximised = False

    def __call__(self, results: Sequence[Result]) -> float:
        """Return the mean loss; NaN where no row has a weight."""
        products: list[float] = []
        weights: list[float] = []
        for batch, outputs in results:
            loss = outputs["loss"][: batch.valid].astype(np.float64)
            weight = outputs["weight"][: batch.valid].astype(np.float64)
            counted = weight > 0
            products += (loss * weight)[counted].tolist()
            weights += weight[counted].tolist()
        if not weights or any(math.isnan(value) for value in products):
            return math.nan
        if any(math.isinf(value) for value in products):
            return math.inf
        return math.fsum(products) / math.fsum(weights)


class MetricObjective:
    """Minus a metric over the whole step's batch."""

    maximised = True

    def __init__(self, name: str, manifest: Manifest) -> None:
        self._name = name
        self._make = METRICS[manifest.loss]
        metrics = self._make()
        self.outputs: tuple[str, ...] | None = metrics.outputs
        if name not in metrics.names:
            raise InputError(
                f"--objective {name} needs class labels, and this bundle's {manifest.task} has none: "
                f"use --objective loss or a Python function"
            )

    def __call__(self, results: Sequence[Result]) -> float:
        """Return minus the metric; NaN where a loss isn't finite."""
        metrics = self._make()
        for batch, outputs in results:
            metrics.update(batch, outputs)
        values = metrics.result()
        return -values[self._name] if math.isfinite(values["loss"]) else math.nan


class FunctionObjective:
    """What a user's function says of the step's whole batch; minus that where it is maximised.

    The function is ``fn(outputs, targets) -> float``; both are dicts of arrays [n, ...] in the order of the batch
    (``data.batches.gather`` says how rows of unequal widths are filled up). Whether more of it is better is told by
    ``direction``, or by an attribute of that name on the function: "min" or "max".

    Raises:
        InputError: it can't be loaded or called like that, or nobody tells its direction.
    """

    outputs: tuple[str, ...] | None = None

    def __init__(self, name: str, manifest: Manifest, direction: Direction | None = None) -> None:
        self._name, self._fn = name, _load(name)
        _check_signature(name, self._fn, manifest)
        self.maximised = _direction(name, self._fn, direction) == "max"

    def __call__(self, results: Sequence[Result]) -> float:
        """Return the number.

        Raises:
            InputError: the function raised, or returned something that isn't one number.
        """
        try:
            score = self._fn(*gather(results))
            value = np.asarray(score)
        except Exception as error:  # a user's code may raise anything
            raise InputError(
                f"--objective {self._name} raised {type(error).__name__} ({error}): correct the function"
            ) from error
        if value.size != 1 or value.dtype.kind not in "biuf":
            shown = " ".join(repr(score).split())[:40]
            raise InputError(f"--objective {self._name} returned {shown}: return one number")
        number = float(value.reshape(()))
        return -number if self.maximised else number


# a new objective is one line here; "module:function" needs none
OBJECTIVES: dict[str, Callable[[Manifest], Objective]] = {
    "loss": lambda manifest: LossObjective(),
    "accuracy": lambda manifest: MetricObjective("accuracy", manifest),
    "f1": lambda manifest: MetricObjective("f1", manifest),
}


def objective(name: str, manifest: Manifest, direction: Direction | None = None) -> Objective:
    """Return the objective called ``name``: a key of ``OBJECTIVES`` or "pkg.mod:fn".

    Args:
        name: what it is called.
        manifest: the bundle's.
        direction: whether a function's number is to be minimised or maximised; others know.

    Raises:
        InputError: no such objective, one that the bundle's task has no use for, a function that can't be
            loaded or called, or a direction that is missing or wrong.
    """
    if ":" in name:
        return FunctionObjective(name, manifest, direction)
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise InputError(
            f"--objective {name!r} is unknown{near(name, OBJECTIVES)}; use {known} or module:function"
        )
    made = OBJECTIVES[name](manifest)
    if direction is not None and made.maximised != (direction == "max"):
        raise InputError(
            f"--objective-direction {direction} contradicts --objective {name}, which is "
            f"{'maximised' if made.maximised else 'minimised'}: leave it out"
        )
    return made


# functions of the program itself by the names that options call them by; each thread has its own
_GIVEN: ContextVar[Mapping[str, Score]] = ContextVar("functions given as objectives")


@contextmanager
def functions_given(functions: Mapping[str, Score]) -> Iterator[None]:
    """Let objectives of these names be these functions, which need not be importable."""
    token = _GIVEN.set(functions)
    try:
        yield
    finally:
        _GIVEN.reset(token)


_PACKAGES = frozenset(("site-packages", "dist-packages"))
# where a run's own module was found when the run began; each thread has its own
_BESIDE: ContextVar[str] = ContextVar("folder of the module of an objective", default="")


@contextmanager
def beside(folder: str) -> Iterator[None]:
    """Let the modules of objectives be found in a folder, before the one that the user works in; "" for none."""
    token = _BESIDE.set(folder or _BESIDE.get())
    try:
        yield
    finally:
        _BESIDE.reset(token)


def module_folder(name: str) -> str:
    """Return the folder from which an objective that was loaded is importable; "" where it needs none.

    Installed modules need none, and neither do objectives that aren't functions.
    """
    module = sys.modules.get(name.partition(":")[0].partition(".")[0]) if ":" in name else None
    file = getattr(module, "__file__", None)
    if file is None or name.startswith("__main__:"):
        return ""
    path = Path(file).resolve()
    folder = path.parent.parent if path.stem == "__init__" else path.parent
    standard = folder.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    return "" if standard or _PACKAGES.intersection(folder.parts) else str(folder)


def _direction(name: str, function: Score, given: Direction | None) -> Direction:
    """Return the direction that is given or that a function tells itself."""
    told = getattr(function, "direction", None)
    if told not in ("min", "max", None):
        raise InputError(f"--objective {name} has the direction {told!r}: it must be 'min' or 'max'")
    short = name.partition(":")[2].rpartition(".")[2]
    if given and told and given != told:
        raise InputError(
            f"--objective-direction {given} contradicts the function's own {short}.direction = {told!r}: leave one out"
        )
    if given or told:
        return cast("Direction", given or told)
    raise InputError(
        f"--objective {name} doesn't say whether less or more of it is better: give --objective-direction min or max, "
        f'or set {short}.direction = "min" or "max"'
    )


def _check_signature(name: str, function: Score, manifest: Manifest) -> None:
    """Refuse a function that can't be called with two arguments, and tell what it would get."""
    if inspect.iscoroutinefunction(function):
        raise InputError(f"--objective {name} is an async function: define it without async")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin tells nothing
    try:
        signature.bind({}, {})
    except TypeError as error:
        outputs = ", ".join(f"{port.name} {list(port.shape)}" for port in manifest.outputs)
        targets = ", ".join(f"{port.name} {list(port.shape)}" for port in manifest.targets)
        raise InputError(
            f"--objective {name} takes {signature}, and is called with two dicts of arrays, outputs ({outputs}) and "
            f"targets ({targets}): define it as f(outputs, targets)"
        ) from error


def _load(name: str) -> Score:
    if name in _GIVEN.get({}):
        return _GIVEN.get({})[name]
    if name.startswith("__main__:") or "<" in name:
        raise InputError(
            f"--objective {name} is a function that was given in Python: give it again, as "
            f"tune(..., objective=function), or name an importable one, module:function"
        )
    module_name, _, attribute = name.partition(":")
    places = list(dict.fromkeys(filter(None, (_BESIDE.get(), os.getcwd()))))
    for folder in reversed(places):
        if folder not in sys.path:
            sys.path.insert(0, folder)  # as `python -m` does: the function lies where the user works
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs a user's code
        raise InputError(
            f"--objective {name} can't be loaded: importing {module_name!r} raised {type(error).__name__} "
            f"({error}); name a module in {' or '.join(places)}, or an installed one"
        ) from error
    function = getattr(module, attribute, None)
    if function is None:
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(
            f"--objective {name} can't be loaded: {module_name} has no {attribute!r}{near(attribute, public)}"
        )
    if not callable(function):
        raise InputError(
            f"--objective {name} can't be used: it is {type(function).__name__} and not a function"
        )
    loaded: Score = function
    return loaded
