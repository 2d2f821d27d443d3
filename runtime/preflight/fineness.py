"""How small a perturbation the loss of a run still answers on its device: what rounding leaves of differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.methods import Move, Update

from ..device import Device
from ..job import Job, Splits, make_job
from ..passes.live import values_for_zeros
from ..plan import Plan
from ..records import Assign
from ..run.fold import FULL
from ..run.steps import settled

_LINES = 6
_POINTS = 12
_DEGREE = 3
_PLACES = np.linspace(-1.0, 1.0, _POINTS)
_SHORT, _LONGEST = (
    0.1,
    1e3,
)  # half the length of a line, in eps: on it the loss, but for rounding, is a polynomial
_CLEAR = 3.0  # a difference is taken as clear at this multiple of its own deviation


Float64 = NDArray[np.float64]


class Fineness(NamedTuple):
    """What ``fineness`` finds.

    Attributes:
        noise: standard deviation of one loss, by rounding.
        least_eps: the smallest perturbation whose difference of losses stands clearly above that; infinity where
            none was found.
    """

    noise: float
    least_eps: float

    def eps(self, usual: float) -> float:
        """Return what to perturb by: as usual, or more where that is lost in rounding, to one digit."""
        if self.least_eps <= usual or not math.isfinite(self.least_eps):
            return usual
        unit = 10.0 ** math.floor(math.log10(self.least_eps))
        return float(f"{math.ceil(self.least_eps / unit - 1e-9) * unit:.1g}")


def fineness(job: Job) -> Fineness:
    """Measure along the run's own directions, on rows of a step; the parameters are of no use afterwards.

    Evaluations repeat bit for bit, so rounding shows only from point to point: along a line a polynomial is fitted to
    the losses, and what is left over is ``noise``, at least what float32 tells of the rows' losses. A line is a tenth
    of eps to either side, or as much longer as it takes until most losses on it differ. ``least_eps`` is where
    |L(+eps z) - L(-eps z)|, 2 eps times the slope in root mean square over lines, is three times the deviation of that
    difference, sqrt(2) noise.
    """
    half, step = _SHORT * job.fold.eps, 0
    variances: list[float] = []
    slopes: list[float] = []
    while len(variances) < _LINES:
        losses = _along(job, step, half * _PLACES)
        if not np.isfinite(losses).all():
            return Fineness(math.nan, math.inf)
        step += 1
        if len(set(losses)) < _POINTS // 2 and half < _LONGEST * job.fold.eps:
            half *= 4.0
            continue
        fitted = np.polynomial.Polynomial.fit(_PLACES, losses, _DEGREE)
        rest = float(np.square(losses - fitted(_PLACES)).sum()) / (_POINTS - _DEGREE - 1)
        rows = sum(batch.valid for batch in job.measure.batch(step - 1))
        told = float(np.spacing(np.float32(np.abs(losses).max()))) ** 2 / (12.0 * rows)
        variances.append(max(rest, told))
        slopes.append(float(fitted.deriv()(0.0)) / half)
    noise, slope = math.sqrt(np.mean(variances)), math.sqrt(np.mean(np.square(slopes)))
    return Fineness(noise, _CLEAR * math.sqrt(2.0) * noise / (2.0 * slope) if slope else math.inf)


def begin(job: Job) -> None:
    """Give a job the first values of a run, a new head's made up."""
    if job.bases is not None:
        job.fold.apply(job.bases)
    head = job.bundle.manifest.head
    if head is not None and head.fresh:
        buffers = {head.weight: job.fold.parameters.buffers[head.weight]}
        job.fold.apply(Assign(0, {FULL: values_for_zeros(job.bundle.manifest, buffers)}))


def with_eps(bundle: Bundle, device: Device, splits: Splits, plan: Plan) -> Plan:
    """Return a plan whose eps is what the loss answers, where passes are coarser than float32; and says so."""
    usual, precision = plan.options.eps or 0.0, device.precision
    if precision == "float32":
        return plan
    job = make_job(bundle, device, splits, plan)
    begin(job)
    found = fineness(job)
    del job
    device.give_back()
    eps = found.eps(usual)
    if eps == usual:
        return plan
    told = f"eps is {eps:g} and not {usual:g}: in {precision} the loss answers nothing below {found.least_eps:.1g}"
    return replace(plan, options=structs.replace(plan.options, eps=eps), notes=(*plan.notes, told))


def _along(job: Job, step: int, scales: Float64) -> Float64:
    """Return the losses of a step's rows at multiples of its first direction."""
    parameters = job.fold.parameters

    def points() -> Iterator[int]:
        for index, scale in enumerate(scales.tolist()):
            parameters.visit(step, (Move(0, scale),))
            yield index

    losses = list(job.measure.losses(job.measure.batch(step), settled(job.fold, points())))
    parameters.apply(step, Update())  # back, as a step that is skipped
    return np.array(losses)
