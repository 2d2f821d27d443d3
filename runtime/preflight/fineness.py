"""How small a perturbation the loss of a run still answers on its device: what rounding leaves of differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from msgspec import structs

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
_SHORT = 0.1  # half the length of a line, in eps: on it the loss, but for rounding, is a polynomial
_CLEAR = 3.0  # a difference is taken as clear at this multiple of its own deviation


class Fineness(NamedTuple):
    """What ``fineness`` finds.

    Attributes:
        noise: standard deviation of one loss, by rounding.
        least_eps: the smallest perturbation whose difference of losses stands clearly above that.
    """

    noise: float
    least_eps: float

    def eps(self, usual: float) -> float:
        """Return what to perturb by: as usual, or more where that is lost in rounding, to one digit."""
        if self.least_eps <= usual:
            return usual
        unit = 10.0 ** math.floor(math.log10(self.least_eps))
        return float(f"{math.ceil(self.least_eps / unit - 1e-9) * unit:.1g}")


def fineness(job: Job) -> Fineness:
    """Measure along the run's own directions, on rows of a step; the parameters are of no use afterwards.

    Evaluations repeat bit for bit, so rounding shows only from point to point: along a line of 0.1 eps to either side
    a polynomial is fitted to the losses, and what is left over is ``noise``, at least what float32 tells of the rows'
    losses. ``least_eps`` is where |L(+eps z) - L(-eps z)|, in root mean square over lines and linear in eps, is three
    times the deviation of that difference, sqrt(2) noise.
    """
    eps = job.fold.eps
    places = np.linspace(-_SHORT, _SHORT, _POINTS)
    variances, squares = [], []  # of one loss; of half of L(+eps z) - L(-eps z)
    least = 0.0
    for step in range(_LINES):
        losses = _along(job, step, [eps, -eps, *(eps * places)])
        squares.append((losses[0] - losses[1]) ** 2 / 4.0)
        fitted = np.polynomial.Polynomial.fit(places, losses[2:], _DEGREE)
        variances.append(float(np.square(losses[2:] - fitted(places)).sum()) / (_POINTS - _DEGREE - 1))
        rows = sum(batch.valid for batch in job.measure.batch(step))
        least = max(least, float(np.spacing(np.float32(abs(losses[0])))) ** 2 / (12.0 * rows))
    variance = max(float(np.mean(variances)), least)
    own = variance / 2.0  # what noise adds to a square, and the least that can be told
    change = math.sqrt(max(float(np.mean(squares)) - own, own))
    noise = math.sqrt(variance)
    return Fineness(noise, eps * _CLEAR * math.sqrt(2.0) * noise / (2.0 * change))


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


def _along(job: Job, step: int, scales: list[float]) -> list[float]:
    """Return the losses of a step's rows at multiples of its first direction."""
    parameters = job.fold.parameters

    def points() -> Iterator[int]:
        for index, scale in enumerate(scales):
            parameters.visit(step, (Move(0, scale),))
            yield index

    losses = list(job.measure.losses(job.measure.batch(step), settled(job.fold, points())))
    parameters.apply(step, Update())  # back, as a step that is skipped
    return losses
