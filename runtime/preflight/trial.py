"""A run tried out: its start, its largest forward pass and a small one, and the moves of a step, without output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import log2
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec
import numpy as np

from zoedge.bundle import Bundle
from zoedge.options import TuneOptions

from ..data.batches import MicroBatch, Result, Rows, micro_batches
from ..data.dataset import Dataset
from ..data.example import Array, Example
from ..data.facts import Facts
from ..data.in_memory import InMemory
from ..data.made_up import made_up_rows
from ..device import Device
from ..job import Job, Splits, eval_bounds, head_refit, make_job, read_rows
from ..losses import objectives
from ..machine.limits import Kind
from ..machine.memory import Held, Watch
from ..measuring.measure import EVAL_BLOCK, eval_batches
from ..passes.bounds import EVAL_ROWS
from ..plan import UNBOUNDED_STEPS, make_plan
from ..run.steps import NO_LENGTH
from ..start.refit import PROBE_ROWS
from .footprint import Footprint, footprint

SAMPLED_STEPS = 16  # whose batches stand for the run's
_TIMED_SECONDS = 0.5  # a pass is repeated for about this long
_MOST_REPEATS = 5
_SOLVED_ROWS = (64, 128)  # solving a head is timed on these many and extrapolated


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What to try; without ``data``, rows of ``sequence_length`` are made up.

    ``facts`` are what is known about the data, so that a trial need not find it out again.
    ``in_memory``: ``data`` is the path of rows that ``InMemory.save`` wrote. ``own_objective``: the objective is a
    function of the asking program, in whose place another stands, as only memory and time count.
    ``may_hold`` says, for some kinds of memory, at how many bytes to give up; ``memory_only`` leaves timing out.
    """

    bundle: str
    data: Any  # str or InMemory; a child reads a saved one
    options: TuneOptions
    in_memory: bool = False
    own_objective: bool = False
    facts: Facts | None = None
    sequence_length: int | None = None
    may_hold: dict[Kind, int] = {}
    memory_only: bool = False


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """A forward pass; ``width`` is its padded length in tokens, 1 where there are none."""

    rows: int
    width: int

    @property
    def size(self) -> int:
        """What its time and memory grow with."""
        return self.rows * self.width


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen.

    Attributes:
        most: the most the process held of each kind of memory.
        ready: what it held before the first forward pass.
        rough: what the manifest alone says of it.
        device_memory: what the device calls its own memory; "" where it has none.
        largest: the largest pass of the run.
        passes: forward passes of a step, on average.
        forward_seconds: what they take.
        moves_seconds: what moving the parameters takes, per step.
        start_seconds: from the start of the process to the first step, without solving a head.
        evaluation_seconds: the passes of one evaluation over the validation rows; 0 without.
        solve_seconds: solving a new head once, its passes included; 0 without.
        steps: of the run; None where only time bounds it.
        evaluations, solves: how often a run does either, the end included.
    """

    most: Held
    ready: Held
    largest: Pass
    passes: float
    forward_seconds: float
    moves_seconds: float
    start_seconds: float
    evaluation_seconds: float = 0.0
    solve_seconds: float = 0.0
    steps: int | None = None
    evaluations: int = 0
    solves: int = 0
    rough: Footprint | None = None
    device_memory: str = ""


def open_job(ask: Ask, device: Device) -> Job:
    """Return the run to try, on the data or on rows made up."""
    bundle = Bundle.open(ask.bundle)
    if ask.data is not None:
        data = InMemory.load(Path(ask.data)) if ask.in_memory else ask.data
        with objectives.functions_given({ask.options.objective: _no_score} if ask.own_objective else {}):
            return make_job(bundle, device, *read_rows(bundle, device, data, ask.options, facts=ask.facts))
    count = max(2 * ask.options.batch_size, EVAL_ROWS)
    rows = made_up_rows(bundle.manifest, count, ask.sequence_length, bundle.folder)
    plan = make_plan(ask.options, bundle.manifest, count, has_validation=True, device=device)
    return make_job(bundle, device, Splits(rows, rows), plan)


def _no_score(outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> float:
    return 0.0


def try_out(ask: Ask, device: Device, started: float) -> Trial:
    """Try a run out in this process, which began at ``started``; its parameters are of no use afterwards."""
    with Watch(device.held) as watch:
        job = open_job(ask, device)
        ready = device.held()
        if job.bases is not None:
            job.fold.apply(job.bases)
        start_seconds = time.time() - started
        steps = [job.measure.batch(step) for step in range(SAMPLED_STEPS)]
        moves, tried = _moves(job)
        largest = max([*_longest(job), *_flat(steps)], key=_size)
        seconds_of = _line(job, [min(_flat(steps), key=_size), max(_flat(steps), key=_size)], ask.memory_only)
        per_size = _seconds(job, largest, once=True) / _size(largest)
        solve = 0.0 if ask.memory_only or ask.data is None else _solve_seconds(job, per_size)
    points = job.fold.method.mean_points(job.plan.total_steps or UNBOUNDED_STEPS)
    evaluated = job.data.valid if ask.data is not None and job.data.valid is not None else None
    return Trial(
        most=watch.most,
        ready=ready,
        largest=_pass(largest),
        passes=points * fmean(len(step) for step in steps),
        forward_seconds=points * fmean(sum(seconds_of(batch) for batch in step) for step in steps),
        moves_seconds=moves * (points + 1.0) / (tried + 1.0),  # a visit each, and the update
        start_seconds=start_seconds,
        evaluation_seconds=per_size * _total_size(evaluated) if evaluated is not None else 0.0,
        solve_seconds=solve,
        steps=job.plan.total_steps,
        evaluations=_times(job, job.plan.options.eval_every) if evaluated is not None else 0,
        solves=_solves(job),
        rough=footprint(job.bundle.manifest, job.plan.options, _longest_row(job), device),
        device_memory=device.own_memory,
    )


def _longest_row(job: Job) -> int:
    splits = (job.data.train, job.data.valid)
    return max(int(rows.lengths.max(initial=0)) for rows in splits if rows is not None)


def _longest(job: Job) -> list[MicroBatch]:
    """Return the largest passes that the data can give a step, and those that measure many rows."""
    options, manifest, train = job.plan.options, job.bundle.manifest, job.data.train
    grain = job.fold.parameters.device.grain
    order = np.argsort(train.lengths, kind="stable")
    examples: Sequence[Example] = train.examples
    passes = micro_batches(
        examples,
        order[-options.batch_size :],
        manifest=manifest,
        max_rows=options.micro_batch_size,
        grain=grain,
    )
    measured = [job.data.valid, train if job.refit is not None else None]
    for rows in (rows for rows in measured if rows is not None):
        block = np.argsort(rows.lengths, kind="stable")[-EVAL_BLOCK:]
        passes += eval_batches(
            manifest, rows.examples, block, eval_bounds(options, manifest, train, grain), grain
        )
    return passes


def _line(job: Job, pair: Sequence[MicroBatch], once: bool) -> Callable[[MicroBatch], float]:
    """Return seconds as a line through two timed passes, a small one and a large one."""
    small, large = pair
    first, second = _seconds(job, small, once=once), _seconds(job, large, once=once)
    if _size(small) == _size(large):
        return lambda batch: second
    slope = max(0.0, (second - first) / (_size(large) - _size(small)))
    return lambda batch: first + slope * (_size(batch) - _size(small))


def _seconds(job: Job, batch: MicroBatch, *, once: bool) -> float:
    """Return the seconds of a point; a pass takes as many together as the run's do."""
    count = job.measure.together
    if not once:
        list(job.measure.losses([batch], range(count)))  # the first run of a shape allocates
    taken: list[float] = []
    while not taken or (not once and len(taken) < _MOST_REPEATS and sum(taken) < _TIMED_SECONDS):
        started = time.perf_counter()
        list(job.measure.losses([batch], range(count)))
        taken.append((time.perf_counter() - started) / count)
    return median(taken)


def _moves(job: Job) -> tuple[float, int]:
    """Return the seconds of a step's moves, and its points, from steps whose losses are pretended."""
    visited: list[int] = []

    def pretended(points: Iterable[int]) -> Iterator[float]:
        for index in points:
            job.fold.parameters.settle()
            visited.append(index)
            yield 1.0 + 1e-6 * (index % 2)

    parameters = job.fold.parameters
    parameters.device.settle_pages(parameters.buffers.values())  # a run's steps together write them all
    taken = []
    for _ in range(3):
        visited.clear()
        started = time.perf_counter()
        job.fold.apply(job.fold.measure(NO_LENGTH, pretended))
        taken.append(time.perf_counter() - started)
    return median(taken[1:]), len(visited)  # the first compiles


def _solve_seconds(job: Job, per_size: float) -> float:
    """Return the seconds of solving a new head on all its rows, from small problems of two sizes."""
    if not _solves(job):
        return 0.0
    train = job.data.train
    rows = min(len(train), PROBE_ROWS)
    most = min(rows, _SOLVED_ROWS[1])
    few = min(rows, _SOLVED_ROWS[0])
    first, second = _solving(job, few), _solving(job, most)
    power = min(2.0, max(1.0, log2(second / first))) if first > 0.0 and most > few else 1.0
    solving: float = second * (rows / most) ** power
    return solving + per_size * _total_size(train.subset(np.arange(rows)))


def _solving(job: Job, count: int) -> float:
    """Return the seconds that the host alone takes for a head on ``count`` rows."""
    folds = max(2, job.plan.folds)
    passes = 0.0

    def forward(rows: Rows, outputs: Sequence[str]) -> list[Result]:
        nonlocal passes
        began = time.perf_counter()
        results = job.measure.forward(rows, outputs)
        passes += time.perf_counter() - began
        return results

    refit = head_refit(job.bundle.manifest, [list(range(k, count, folds)) for k in range(folds)], forward)
    if refit is None:
        return 0.0
    started = time.perf_counter()
    refit.fit()
    return max(1e-6, time.perf_counter() - started - passes)


def _solves(job: Job) -> int:
    """Return how often the run solves a head; at least once where it has one to solve."""
    if job.refit is not None:
        options = job.plan.options
        due = _due(job, options.head_refit_every)
        if job.data.valid is None:  # evaluations judge the head
            due |= _due(job, options.eval_every)
        return max(1, len(due))
    head = job.bundle.manifest.head
    return int(head is not None and head.fresh and job.plan.options.head_init == "probe")


def _times(job: Job, every: int | None) -> int:
    return len(_due(job, every))


def _due(job: Job, every: int | None) -> set[int]:
    """Return the steps of what is done every so many of them, and at the end; none without ``every``."""
    total = job.plan.total_steps or UNBOUNDED_STEPS
    return {*range(0, total, every), total} if every else set()


def _total_size(rows: Dataset) -> int:
    return int(np.maximum(rows.lengths, 1).sum())


def _flat(steps: Sequence[Sequence[MicroBatch]]) -> list[MicroBatch]:
    return [batch for step in steps for batch in step]


def _pass(batch: MicroBatch) -> Pass:
    ids = batch.inputs.get("input_ids")
    width = ids.shape[1] if ids is not None and ids.ndim > 1 else 1
    return Pass(rows=len(next(iter(batch.inputs.values()))), width=width)


def _size(batch: MicroBatch) -> int:
    return _pass(batch).size
