"""Chooses by a measurement at the start how a run's probes are measured: one by one, or several in a pass.

The whole graph, a pass for each point, is what the others are held against: another way is taken only where
it is faster here and gives the same bits on the run's own rows, so that a journal doesn't depend on the choice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import LOSS_FILE

from .batches import MicroBatch
from .engine import Engine, SessionSettings
from .example import Array
from .measure import EVAL_ROWS, EVAL_TOKENS
from .memory import give_back
from .noise import Float32
from .probing import Forward, OneByOne, Probing, Together
from .staged import Staged

_REPEATS = 3
_SECONDS = 2.0  # of repeats, for each way that is tried
_FASTER = 0.95  # of the time so far: less is not worth another way


@dataclass(frozen=True)
class Choice:
    """What runs the graph, how points are measured with it, and a sentence where that isn't the plain way."""

    forward: Forward
    probing: Probing
    note: str | None = None


@dataclass(frozen=True)
class Situation:
    """What the choice is made for.

    Attributes:
        bundle, buffers: as for ``Engine``.
        varying: names of the buffers that differ between the points of a step.
        batch: the passes of one step.
        outputs: what the objective reads; None for all.
        points: points of a step.
        threads, provider, frozen: as for ``Engine``.
    """

    bundle: Bundle
    buffers: Mapping[str, Float32]
    varying: frozenset[str]
    batch: Sequence[MicroBatch]
    outputs: Sequence[str] | None
    points: int
    threads: int
    provider: str
    frozen: Mapping[str, Array] | None = None

    @property
    def stackable(self) -> bool:
        """Whether several points fit into one pass: only LoRA factors differ between them."""
        factors = {name for branch in self.bundle.manifest.lora for name in (branch.a, branch.b)}
        return self.bundle.manifest.stages is not None and self.varying <= factors

    def whole(self) -> Engine:
        """Open the whole graph."""
        return Engine(self.bundle.path(LOSS_FILE), self.buffers, **self._session())

    def staged(self) -> Staged:
        """Open the two parts."""
        return Staged(self.bundle, self.buffers, **self._session())

    def _session(self) -> SessionSettings:
        return {"threads": self.threads, "provider": self.provider, "frozen": self.frozen}

    def together(self, staged: Staged, count: int) -> Together:
        """Return the way that measures ``count`` points a pass."""
        return Together(staged, {name: self.buffers[name] for name in sorted(self.varying)}, count)


def choose(situation: Situation, asked: int | None) -> Choice:
    """Return the fastest way that gives the same bits, or the one asked for.

    Args:
        situation: the run's.
        asked: points a pass; 1 for the whole graph, None to measure.

    Raises:
        InputError: several points a pass were asked for and don't fit the bundle or the method.
    """
    whole = situation.whole()
    if asked is not None and asked > 1:
        if not situation.stackable:
            raise InputError(
                f"--probes-per-pass {asked} needs a bundle whose only moved tensors are LoRA branches: leave it out"
            )
        staged = situation.staged()
        return Choice(staged, situation.together(staged, asked))
    if asked == 1 or situation.bundle.manifest.stages is None or situation.points < 2:
        return Choice(whole, OneByOne(whole))
    with _branches_kept(situation):
        seconds, wanted = _timed(situation, OneByOne(whole)), _bits(situation, OneByOne(whole))
        del whole  # one session at a time: measuring must not cost memory that the run doesn't
        count = _best_count(situation, seconds, wanted)
    give_back()  # what the sessions that were tried held
    if count == 0:
        whole = situation.whole()
        return Choice(whole, OneByOne(whole))
    staged = situation.staged()
    how = (
        f"{count} probes share a pass"
        if count > 1
        else "the layers before the first trained one run once a step"
    )
    return Choice(staged, situation.together(staged, count), f"{how}: faster here, with the same results")


def _best_count(situation: Situation, seconds: float, wanted: list[bytes]) -> int:
    """Return how many points a pass are fastest; 0 for the whole graph."""
    staged = situation.staged()
    best, limit = 0, _most_points(situation)
    count = 1
    while count <= limit:
        probing = situation.together(staged, count)
        needed = _timed(situation, probing)
        if needed < _FASTER * seconds and _bits(situation, probing) == wanted:
            best, seconds = count, needed
        elif count > 1:
            break  # larger passes are slower still
        count = min(2 * count, limit) if count < limit else limit + 1
    return best


def _most_points(situation: Situation) -> int:
    """Return the most points whose rows together stay within what an evaluation runs at once."""
    quantization = situation.bundle.manifest.quantization
    if not situation.stackable or (quantization is not None and quantization.kind == "int8"):
        return 1  # int8 rounds activations by the largest of all rows: more rows give other bits
    tokens = [b.inputs["input_ids"].size for b in situation.batch if "input_ids" in b.inputs]
    rows = [len(next(iter(b.targets.values()))) for b in situation.batch]
    room = EVAL_TOKENS // max(tokens) if tokens else EVAL_ROWS // max(rows)
    return max(1, min(situation.points, room))


def _timed(situation: Situation, probing: Probing) -> float:
    """Return the seconds of a step's passes, the best of a few."""
    best, spent = np.inf, 0.0
    for _ in range(_REPEATS + 1):  # the first one warms up
        started = time.perf_counter()
        for _ in probing.results(situation.batch, _points(situation), situation.outputs):
            pass
        needed = time.perf_counter() - started
        best, spent = min(best, needed), spent + needed
        if spent > _SECONDS:
            break
    return float(best)


def _bits(situation: Situation, probing: Probing) -> list[bytes]:
    """Return every output at every point, of the step's rows and of its first row alone."""
    alone = [_first_row(situation.batch[0])]
    return [
        out[name].tobytes()
        for batch in (situation.batch, alone)
        for results in probing.results(batch, _points(situation), situation.outputs)
        for _, out in results
        for name in sorted(out)
    ]


def _first_row(batch: MicroBatch) -> MicroBatch:
    first = [{name: array[:1] for name, array in part.items()} for part in (batch.inputs, batch.targets)]
    return MicroBatch(first[0], first[1], batch.rows[:1])


def _points(situation: Situation) -> Iterator[int]:
    """Let the branches differ from point to point, as probes do."""
    rng = np.random.default_rng(0)
    names = [branch.b for branch in situation.bundle.manifest.lora]
    for point in range(situation.points):
        for name in names:
            shape = situation.buffers[name].shape
            situation.buffers[name][...] = 0.01 * rng.standard_normal(shape, dtype=np.float32)
        yield point


@contextmanager
def _branches_kept(situation: Situation) -> Iterator[None]:
    """Put back what ``_points`` changes."""
    kept = {branch.b: situation.buffers[branch.b].copy() for branch in situation.bundle.manifest.lora}
    try:
        yield
    finally:
        for name, value in kept.items():
            situation.buffers[name][...] = value
