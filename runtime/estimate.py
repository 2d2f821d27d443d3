"""``zoedge estimate``: what a run will hold and take, from a rehearsal of its first seconds."""

from __future__ import annotations

from typing import Any

import msgspec

from zoedge.errors import InputError
from zoedge.options import TuneOptions, seconds

from .asked import Function, Options, asked
from .data import Data, InMemory, as_data
from .preflight.rehearsal import rehearse
from .preflight.trial import Ask, Trial
from .run.opened import BundleLike, open_bundle


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What to expect of a run; bytes and seconds.

    Attributes:
        peak_rss_bytes: most resident memory, pages of files included (the system can drop most of those).
        peak_anonymous_bytes: most memory that can't be dropped: what a run needs.
        step_seconds: forward passes and moves of a step.
        forward_seconds, moves_seconds: the two parts.
        passes: forward passes of a step.
        largest_rows, largest_width: the largest pass of the run: rows and padded tokens.
        start_seconds: opening everything, and the directions of LoRA branches.
        solve_seconds: solving a new head, all times together; 0 without data. Read it as a lower bound:
            how long the host iterates isn't known before the features are.
        evaluation_seconds: all evaluations together; 0 without data.
        total_seconds: the whole run.
        steps: how many steps that is.
        device_memory: what a device's own memory is called; "" where passes run in that of the process.
        peak_device_bytes: most of it that the rehearsal held; None where there is none.
        device_trained_bytes, device_frozen_bytes, device_pass_bytes: what the manifest alone says of it: buffers with
            masters and a rule's arrays, frozen tensors, a pass. 0 where there is none.
    """

    peak_rss_bytes: int
    peak_anonymous_bytes: int
    step_seconds: float
    forward_seconds: float
    moves_seconds: float
    passes: float
    largest_rows: int
    largest_width: int
    start_seconds: float
    solve_seconds: float
    evaluation_seconds: float
    total_seconds: float
    steps: int
    device_memory: str = ""
    peak_device_bytes: int | None = None
    device_trained_bytes: int = 0
    device_frozen_bytes: int = 0
    device_pass_bytes: int = 0


def estimate(
    bundle: BundleLike,
    data: Data | InMemory | None = None,
    options: Options | None = None,
    *,
    objective: str | Function | None = None,
    sequence_length: int | None = None,
) -> Estimate:
    """Estimate the memory and the time of a run.

    Args:
        bundle: the bundle, or its folder.
        data: what it would be tuned on, as for ``tune``; without it, rows of one length are made up.
        options: of the run, as for ``tune``.
        objective: as for ``tune``.
        sequence_length: of rows made up; the bundle's longest by default.

    Raises:
        InputError: something given can't be used.
        RefusedError: the rehearsal itself took more memory than there is.
    """
    if data is not None and sequence_length is not None:
        raise InputError("--sequence-length is for an estimate without --data: leave one out")
    wanted = asked(options, objective=objective)
    trial = rehearse(
        Ask(
            bundle=str(open_bundle(bundle).folder),
            data=as_data(data) if data is not None else None,
            options=wanted.options,
            sequence_length=sequence_length,
            own_objective=wanted.function is not None,
        )
    )
    return _of(trial, wanted.options)


def _of(trial: Trial, options: TuneOptions) -> Estimate:
    step = trial.forward_seconds + trial.moves_seconds
    solving = trial.solves * trial.solve_seconds
    evaluating = trial.evaluations * trial.evaluation_seconds
    beside = trial.start_seconds + solving + evaluating
    steps, total = trial.steps, beside + (trial.steps or 0) * step
    if options.max_time is not None and (steps is None or total > seconds(options.max_time)):
        total = seconds(options.max_time)
        steps = max(0, int((total - beside) / step))
    return Estimate(
        peak_rss_bytes=max(trial.most.peak, trial.most.resident),
        peak_anonymous_bytes=trial.most.anonymous,
        step_seconds=step,
        forward_seconds=trial.forward_seconds,
        moves_seconds=trial.moves_seconds,
        passes=trial.passes,
        largest_rows=trial.largest.rows,
        largest_width=trial.largest.width,
        start_seconds=trial.start_seconds,
        solve_seconds=solving,
        evaluation_seconds=evaluating,
        total_seconds=total,
        steps=steps or 0,
        **_of_device(trial),
    )


def _of_device(trial: Trial) -> dict[str, Any]:
    rough = trial.rough
    if rough is None or not rough.elsewhere:
        return {}
    return {
        "device_memory": trial.device_memory,
        "peak_device_bytes": trial.most.device,
        "device_trained_bytes": rough.trained,
        "device_frozen_bytes": rough.frozen,
        "device_pass_bytes": rough.passes,
    }
