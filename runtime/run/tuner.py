"""The loop of a run: refit, evaluate, step, save; everything that matters goes through the journal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zoedge.errors import ZoedgeError
from zoedge.options import TuneOptions

from ..data.facts import Facts
from ..losses.objectives import Criterion
from ..machine.interrupt import Interrupt, interrupts_held
from ..machine.memory import Held
from ..noise.reference import Float32
from ..records import Assign, Eval, Record, Step
from . import snapshots
from .certainty import best_text
from .evaluations import Evaluations
from .fold import FULL, Fold
from .journal import Journal
from .progress import Extent, Progress
from .run_folder import Log, Run
from .schedule import factor
from .steps import Steps

SNAPSHOT_SECONDS = 300.0
MOST_SKIPS = 20  # steps in a row without a finite loss

_LOOK_SECONDS = 0.05  # between looks at what memory is held: one takes a twentieth of a GPU's step


@dataclass
class Clock:
    """Seconds of this run, those before an interruption included."""

    before: float
    started: float

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self.started


class Refit(Protocol):
    """Solves a head anew at the fold's present values; see ``head.refit``."""

    def fit(self) -> SolvedHead:
        """Solve it."""


class SolvedHead(Protocol):
    """A solved head."""

    def record(self, step: int) -> Assign:
        """Return the record that assigns it."""


@dataclass(frozen=True)
class Parts:
    """What a loop turns.

    Attributes:
        fold: the state, caught up with the journal.
        steps: where steps come from.
        options: of the run, all decided.
        extent: steps and seconds after which it ends.
        criterion: what tells a better evaluation from a worse one.
        goal: what steps improve.
        names: of the tensors to save.
        saved: the tuned tensors as they are saved, of those at theta.
        validation: metrics of the validation rows; None where there are none.
        facts: of the run's data: how many rows an evaluation is over.
        refit: solves a head again and again; None where there is none to solve.
        initial: the first values of what is assigned; None where nothing is.
        news: a sentence that came up since it was last asked; None for none.
    """

    fold: Fold
    steps: Steps
    options: TuneOptions
    extent: Extent
    criterion: Criterion
    goal: Criterion
    names: Sequence[str]
    saved: Callable[[dict[str, Float32]], dict[str, Float32]] = lambda tensors: tensors
    validation: Callable[[], dict[str, float]] | None = None
    facts: Facts = field(default_factory=Facts)
    refit: Refit | None = None
    initial: Callable[[], Assign] | None = None
    news: Callable[[], str | None] = lambda: None


class Tuner:
    """One run, from wherever its fold stands to its end.

    Args:
        parts: what to do and with what.
        records: what the journal holds already.
        run, journal, log: where results go.
        progress: who is told.
        elapsed_seconds: time spent before an interruption.
    """

    def __init__(
        self,
        parts: Parts,
        records: list[Record],
        run: Run,
        journal: Journal,
        log: Log,
        progress: Progress,
        *,
        elapsed_seconds: float = 0.0,
    ) -> None:
        self._parts, self._fold, self._options = parts, parts.fold, parts.options
        self._run, self._journal, self._log, self._progress = run, journal, log, progress
        self._clock = Clock(elapsed_seconds, time.monotonic())
        self._snapshot_at = time.monotonic()
        self._evaluations = Evaluations(parts.criterion)
        self._records = 0
        self._begun = False  # initial values were assigned
        self._refitted_at: int | None = None
        self._refit_metrics: dict[str, float] | None = None
        self._skips = 0
        self._held, self._looked = (
            Held(),
            -math.inf,
        )  # the most of each kind of memory, and when that was asked for
        self._between_steps = True
        for record in records:
            self._note(record)

    def run(self) -> None:
        """Go on to the end; an interruption or a failure leaves a run that can be resumed.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; everything is saved.
            ZoedgeError: too many steps in a row without a finite loss.
        """
        try:
            with interrupts_held() as interrupt:
                self._loop(interrupt)
                if not interrupt.requested:
                    self._pause(final=True)
                    self._tell_best()
            if interrupt.requested:
                raise KeyboardInterrupt
        finally:
            self._save()

    def _loop(self, interrupt: Interrupt) -> None:
        while not (interrupt.requested or self._finished()):
            self._pause(final=False)
            if self._finished():
                return
            self._step()
            self._tell_news()
            self._snapshot_now_and_then()

    def _tell_best(self) -> None:
        best = self._evaluations
        if best.best_step is not None and best.best_metrics is not None:
            self._progress.note(best_text(best.best_step, best.best_metrics, self._parts.facts))

    def _tell_news(self) -> None:
        if (news := self._parts.news()) is not None:
            self._progress.note(news)

    def _finished(self) -> bool:
        extent, step = self._parts.extent, self._fold.step
        patience = self._options.early_stopping_patience
        return (
            (extent.steps is not None and step >= extent.steps)
            or (extent.seconds is not None and self._clock.elapsed >= extent.seconds)
            or (patience is not None and self._evaluations.since_best >= patience)
        )

    def _pause(self, *, final: bool) -> None:
        """Refit and evaluate where that is due at this step and not done yet."""
        step = self._fold.step
        if self._parts.initial and step == 0 and not self._begun:
            self._fold.rest()
            self._append(self._parts.initial())
        evaluates = self._due(self._options.eval_every, self._evaluations.last_step, final)
        if self._parts.refit and self._refits(evaluates, final):
            self._fold.rest()
            self._append(self._parts.refit.fit().record(step))
        if not evaluates:
            return
        self._fold.rest()
        # without validation rows, a head that was refitted here speaks for itself
        metrics = self._refit_metrics if self._refitted_at == step else None
        if self._parts.validation is not None:
            metrics = self._parts.validation()
        if metrics is not None:
            self._evaluate(Eval(step, metrics))

    def _refits(self, evaluates: bool, final: bool) -> bool:
        """Whether the head is solved anew at this step: without validation rows it is what an evaluation judges."""
        judged = evaluates and self._parts.validation is None and self._refitted_at != self._fold.step
        return judged or self._due(self._options.head_refit_every, self._refitted_at, final)

    def _due(self, every: int | None, last: int | None, final: bool) -> bool:
        step = self._fold.step
        return bool(every) and last != step and (final or step % (every or 1) == 0)

    def _evaluate(self, record: Eval) -> None:
        first = self._evaluations.last_step is None
        if self._evaluations.improves(record):
            # before the record: whoever reads of a best evaluation finds its weights
            self._run.save_weights("best", self._tensors())
        self._append(record)
        self._journal.sync()
        finite = {f"eval_{name}": v if math.isfinite(v) else None for name, v in record.metrics.items()}
        row = {"step": record.step, **finite}
        self._log.write(row | {"elapsed_seconds": self._clock.elapsed})
        self._progress.evaluation(row)
        if first and self._parts.criterion.metric == "objective":
            self._progress.note(self._parts.criterion.told(record.metrics["objective"]))

    def _step(self) -> None:
        started = time.monotonic()
        lr = (self._options.lr or 0.0) * factor(self._options.lr_schedule or "constant", self._completed())
        self._between_steps = False
        record = self._parts.steps.next(self._fold, lr)
        self._journal.append(record)
        told = self._fold.apply(record)
        self._between_steps = True
        self._note(record)
        self._skips = 0 if told else self._skips + 1
        loss = self._fold.method.loss(record.answers)
        goal, device = self._parts.goal, self._fold.parameters.device
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._held, self._looked = self._held.most(device.held()), time.monotonic()
        row = {
            "step": record.step + 1,
            "loss": loss,  # what was minimised
            goal.metric: -loss if goal.maximised else loss,
            "step_seconds": time.monotonic() - started,
            "lr": record.lr,
            "eps": self._fold.eps,
            "projected_gradient": math.fsum(told.g) / len(told.g) if told else None,
            "peak_rss_bytes": self._held.peak,
            **({"peak_device_bytes": self._held.device} if device.own_memory else {}),
            "elapsed_seconds": self._clock.elapsed,
        }
        self._log.write(row if math.isfinite(loss) else row | {"loss": None, goal.metric: None})
        self._progress.step(row, report=(record.step + 1) % self._options.log_every == 0)
        if told is None:
            self._skipped(record)

    def _completed(self) -> float:
        """Return the share of the run that is done, by steps or by time, whichever is further."""
        return self._parts.extent.share(self._fold.step, self._clock.elapsed)

    def _skipped(self, record: Step) -> None:
        rounding = "" if self._fold.parameters.exact else ", up to float32 rounding"
        self._progress.note(
            f"step {record.step + 1} skipped: a loss or the update was not finite; the weights are as before "
            f"it{rounding}"
        )
        if self._skips >= MOST_SKIPS:
            raise ZoedgeError(
                f"no finite loss for {MOST_SKIPS} steps in a row: start again with a lower --lr (now {record.lr:g}) "
                f"or --eps (now {self._fold.eps:g})"
            )

    def _append(self, record: Assign | Eval) -> None:
        self._journal.append(record)
        self._fold.apply(record)
        self._note(record)

    def _note(self, record: Record) -> None:
        self._records += 1
        self._evaluations.take(record)
        if isinstance(record, Assign):
            self._begun = True
            if any(slot != FULL for slot in record.slots):
                self._refitted_at, self._refit_metrics = record.step, record.metrics

    def _tensors(self) -> dict[str, Float32]:
        """Return the tuned tensors at theta, as they are saved."""
        self._fold.rest()
        tensors = self._fold.parameters.values(self._parts.names)
        return self._parts.saved(tensors)

    def _snapshot_now_and_then(self) -> None:
        if time.monotonic() - self._snapshot_at > SNAPSHOT_SECONDS:
            self._journal.sync()
            snapshots.save(self._run.snapshot, self._fold, self._records)
            self._snapshot_at = time.monotonic()

    def _save(self) -> None:
        self._journal.close()
        if self._between_steps:  # else a failure left the weights at a probe, and the journal rebuilds them
            snapshots.save(self._run.snapshot, self._fold, self._records)
            self._run.save_weights("last", self._tensors())
        self._log.close()
        self._progress.close()
