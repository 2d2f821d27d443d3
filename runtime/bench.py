"""``zoedge bench``: what a step costs here, part by part, in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from .asked import Function, Options, asked
from .data.batches import MicroBatch
from .data.made_up import made_up_rows
from .device import open_device
from .job import Job, Splits, in_precision, make_job
from .losses import objectives
from .noise.reference import NOISE_VERSION
from .plan import make_plan, written_elements
from .records import Header
from .run.journal import Journal
from .run.opened import BundleLike, open_bundle
from .run.steps import NO_LENGTH

STEPS = 7  # timed, after one that warms up
_MOST_SECONDS = 60.0
_LEAST_STEPS = 3


class Quartiles(msgspec.Struct, frozen=True):
    """Median and quartiles over steps, in seconds."""

    median: float
    lower: float
    upper: float


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a step; all but the counts and ratios are seconds per step.

    Attributes:
        forward: forward passes among the moves.
        moves: perturbations and the update.
        rest: batching and the journal.
        step: everything.
        floor: the same forward passes without anything between them, in turns with the steps.
        ratio: step over floor, medians.
        passes: forward passes of a step.
        written_elements: elements of buffers that a move writes; on average, where it moves a share of them.
        noise_ns: nanoseconds of the moves per such element and point or update.
        steps: how many were timed.
        rows, sequence_length: of a batch; the length is None where the graph fixes it.
    """

    forward: Quartiles
    moves: Quartiles
    rest: Quartiles
    step: Quartiles
    floor: Quartiles
    ratio: float
    passes: int
    written_elements: int
    noise_ns: float
    steps: int
    rows: int
    sequence_length: int | None


def bench(
    bundle: BundleLike,
    options: Options | None = None,
    *,
    objective: str | Function | None = None,
    sequence_length: int | None = None,
) -> Bench:
    """Time steps on rows made up; the bundle isn't changed.

    Args:
        bundle: the bundle, or its folder.
        options: of a run, as for ``tune``.
        objective: as for ``tune``.
        sequence_length: tokens of a row; the bundle's longest by default.

    Raises:
        InputError: something given can't be used.
    """
    wanted = asked(options, objective=objective)
    opened = open_bundle(bundle)
    manifest = opened.manifest
    count = 2 * wanted.options.batch_size
    rows = made_up_rows(manifest, count, sequence_length, opened.folder)
    device = open_device(wanted.options.provider, wanted.options.threads, wanted.options.precision)
    plan = make_plan(wanted.options, manifest, count, has_validation=True, device=device)
    with objectives.functions_given(wanted.functions):
        splits = Splits(rows, rows)
        device, plan = in_precision(opened, device, splits, plan, wanted.options)
        job = make_job(opened, device, splits, plan, begun=True)
    with TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder) / "journal", _header(job))
        try:
            parts, passes, points = _run(job, journal)
        finally:
            journal.close()
    return _result(job, parts, passes, points, sequence_length or (int(rows.lengths[0]) or None))


def _run(job: Job, journal: Journal) -> tuple[list[dict[str, float]], int, int]:
    """Return the seconds of each step's parts, and the last one's passes and points.

    A step and its floor take turns, so that both see the same load.
    """
    parameters = job.fold.parameters
    parameters.device.settle_pages(
        parameters.buffers.values()
    )  # as after many steps of a share of the elements
    parts: list[dict[str, float]] = []
    began = time.perf_counter()
    for step in range(STEPS + 1):
        row, batch, rounds = _step(job, journal)
        job.fold.rest()
        started = time.perf_counter()
        for points in rounds:
            list(job.measure.losses(batch, range(points)))
        row["floor"] = time.perf_counter() - started
        if step > 0:
            parts.append(row)
        if len(parts) >= _LEAST_STEPS and time.perf_counter() - began > _MOST_SECONDS:
            break
    passes = sum(-(-points // job.measure.together) for points in rounds) * len(batch)
    return parts, passes, sum(rounds)


def _step(job: Job, journal: Journal) -> tuple[dict[str, float], list[MicroBatch], list[int]]:
    """Take a step of no length as a run does; return its parts, its batch, and the points asked for at once."""
    device = job.fold.parameters.device
    started = time.perf_counter()
    batch = job.measure.batch(job.fold.step)
    settled: list[float] = []
    rounds: list[int] = []

    def settling(points: Iterable[int]) -> Iterator[int]:
        for point in points:
            device.wait()
            began = time.perf_counter()
            job.fold.parameters.settle()
            device.wait()
            settled.append(time.perf_counter() - began)
            yield point

    def losses(points: Iterable[int]) -> list[float]:
        found = list(job.measure.losses(batch, settling(points)))
        rounds.append(len(found))
        return found

    began = time.perf_counter()
    record = job.fold.measure(NO_LENGTH, losses)
    forward = time.perf_counter() - began - sum(settled)
    journal.append(record)
    began = time.perf_counter()
    job.fold.apply(record)
    job.fold.parameters.settle()
    device.wait()
    ended = time.perf_counter()
    row = {"step": ended - started, "forward": forward, "moves": sum(settled) + ended - began}
    return row | {"rest": row["step"] - row["forward"] - row["moves"]}, batch, rounds


def _result(
    job: Job, parts: Sequence[dict[str, float]], passes: int, points: int, length: int | None
) -> Bench:
    spreads: dict[str, Any] = {name: _spread([row[name] for row in parts]) for name in parts[0]}
    elements = written_elements(job.bundle.manifest, job.plan)
    return Bench(
        **spreads,
        ratio=spreads["step"].median / spreads["floor"].median,
        passes=passes,
        written_elements=elements,
        noise_ns=1e9 * spreads["moves"].median / (elements * (points + 1)),
        steps=len(parts),
        rows=job.plan.options.batch_size,
        sequence_length=length,
    )


def _spread(values: Sequence[float]) -> Quartiles:
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Quartiles(middle, lower, upper)


def _header(job: Job) -> Header:
    return Header(
        bundle=job.bundle.digest,
        data="",
        seed=job.plan.options.seed,
        noise=NOISE_VERSION,
        options={},
        solved=job.plan.solved,
        zoedge="",
        versions={},
    )
