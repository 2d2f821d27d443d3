"""Chooses by a measurement at the start how a run's probes are measured: one by one, or several in a pass.

The whole graph, a pass for each point, is what the others are held against: another way is taken only where
it is faster here and gives the same bits on the run's own rows, so that a journal doesn't depend on the choice.
Where another way gives other bits by its nature, a rule decides, and the run keeps what it decided.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from zoedge.errors import InputError

from ..data.batches import MicroBatch
from ..losses.measure import EVAL_ROWS
from ..passes.prefix_cache import PrefixCache
from ..passes.probing import Forward, OneByOne, Probing
from .caching import Tried, try_cache
from .factor_order import Asked, with_order
from .situation import Situation

_REPEATS = 3
_SECONDS = 2.0  # of repeats, for each way that is tried
ROWS_TOGETHER = 128  # of an int8 base, below which a pass costs more for its nodes than for its rows
# of a pass that several points share: OPT-125M gained nothing any more from sharing passes of 512 tokens
TOKENS_TOGETHER = 512
_FASTER = 0.95  # of the time so far: less is not worth another way


@dataclass(frozen=True)
class Choice:
    """What a run will measure with.

    Attributes:
        forward: runs the graph.
        probing: measures points with it.
        note: a sentence where that isn't the plain way.
        cache: keeps rows' results; None where nothing does.
        few_rows: whether trained matrices are on the left of their products.
        asked: points a pass where the user or a rule decided them; None where a timing did.
    """

    forward: Forward
    probing: Probing
    note: str | None = None
    cache: PrefixCache | None = None
    few_rows: bool = False
    asked: int | None = None


def choose(situation: Situation, asked: int | None, few_rows: Asked = "auto") -> Choice:
    """Return the fastest way that gives the same bits, or the one asked for.

    Args:
        situation: the run's.
        asked: points a pass; 1 for the whole graph, None for by a rule where they change numbers, else to measure.
        few_rows: whether trained matrices are on the left of their products; auto for by the number of rows. It
            decides how sums are rounded, so a run keeps to it.

    Raises:
        InputError: several points a pass, or another order of factors, were asked for and don't fit.
    """
    situation = with_order(situation, few_rows)
    ruled = _points_by_rule(situation) if asked is None else None
    choice = _ways(situation, asked or ruled)
    if ruled:
        told = f"{ruled} probes share a pass, and the steps to which int8 rounds activations"
        choice = replace(choice, note="; ".join(n for n in (told, choice.note) if n))
    return replace(choice, few_rows=situation.few_rows, asked=asked or ruled)


def _points_by_rule(situation: Situation) -> int | None:
    """Return how many points share a pass of few rows, where that changes numbers and so no timing may decide it.

    int8 bases round activations by the largest of a pass; points that share it are rounded to one grid.
    """
    if situation.rows is None or not (situation.stackable and situation.rounds_together):
        return None
    count = min(situation.points, ROWS_TOGETHER // situation.rows)
    return count if count > 1 else None


def _ways(situation: Situation, asked: int | None) -> Choice:
    if asked is not None and asked > 1 and not situation.stackable:
        raise InputError(
            f"--probes-per-pass {asked} needs a bundle whose only moved tensors are LoRA branches: leave it out"
        )
    if asked == 1 or situation.bundle.manifest.stages is None or situation.points < 2:
        return _whole(situation)
    with _trial_values(situation):
        tried = try_cache(situation.bundle, situation.recurring, situation.batch, situation.staged)
        seconds = {asked: 0.0} if asked is not None else _seconds_by_count(situation)
        if asked is not None and tried.cache is not None:
            seconds[asked] = _timed(situation, situation.together(situation.staged(), asked))
    situation.device.give_back()  # what the sessions that were tried held
    return _best(situation, seconds, tried, measured=asked is None)


def _best(situation: Situation, seconds: Mapping[int, float], tried: Tried, *, measured: bool) -> Choice:
    """Return the fastest way, with a cache where that saves enough of a step; 0 points are the whole graph."""
    count = _fastest(seconds, tried.saving)
    if tried.cache is not None and (count == 0 or tried.saving < (1 - _FASTER) * seconds[count]):
        tried.cache.close()
        tried = Tried()
        count = _fastest(seconds, 0.0)
    if count == 0:
        return replace(_whole(situation), note=tried.note)
    staged = situation.staged()
    staged.cache = tried.cache
    hows = [f"{count} probes share a pass"] if count > 1 and measured else []
    if tried.cache is not None and tried.note is not None:
        hows.append(tried.note)
    elif count == 1:
        hows.append("the layers before the first trained one run once a step")
    note = f"{' and '.join(hows)}: faster here, with the same results" if hows else None
    notes = [n for n in (note, tried.note if tried.cache is None else None) if n]
    return Choice(staged, situation.together(staged, count), "; ".join(notes) or None, tried.cache)


def _whole(situation: Situation) -> Choice:
    whole = situation.whole()
    return Choice(whole, OneByOne(whole))


def _fastest(seconds: Mapping[int, float], saving: float) -> int:
    """Return the count of points a pass that is fastest, where passes of both parts save some seconds besides."""
    best = min(seconds)
    least = seconds[best] - (saving if best else 0.0)
    for count in sorted(seconds):
        needed = seconds[count] - (saving if count else 0.0)
        if needed < _FASTER * least:
            best, least = count, needed
    return best


def _seconds_by_count(situation: Situation) -> dict[int, float]:
    """Return the seconds of a step by points a pass, 0 for the whole graph; only ways of the same bits."""
    whole = situation.whole()
    seconds, wanted = {0: _timed(situation, OneByOne(whole))}, _bits(situation, OneByOne(whole))
    del whole  # one session at a time: measuring must not cost memory that the run doesn't
    staged = situation.staged()
    count, limit, least = 1, _most_points(situation), np.inf
    while count <= limit:
        probing = situation.together(staged, count)
        needed = _timed(situation, probing)
        if needed >= _FASTER * least:
            break  # larger passes are slower still
        if _bits(situation, probing) == wanted:
            seconds[count] = needed
        least = needed
        count = min(2 * count, limit) if count < limit else limit + 1
    return seconds


def _most_points(situation: Situation) -> int:
    """Return the most points that a shared pass is tried with: beyond so many rows it holds memory for nothing."""
    if not situation.stackable or situation.rounds_together:
        return 1
    tokens = [b.inputs["input_ids"].size for b in situation.batch if "input_ids" in b.inputs]
    rows = [len(next(iter(b.targets.values()))) for b in situation.batch]
    room = TOKENS_TOGETHER // max(tokens) if tokens else EVAL_ROWS // max(rows)
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
    names = sorted(situation.varying.intersection(situation.bundle.manifest.factors))
    for point in range(situation.points):
        for name in names:
            shape = situation.buffers[name].shape
            values = 0.01 * rng.standard_normal(shape, dtype=np.float32)
            situation.device.write(situation.buffers[name], values)
        yield point


@contextmanager
def _trial_values(situation: Situation) -> Iterator[None]:
    """Put back what ``_points`` changes; a new head is given values, as with zeros no bits of features would show."""
    manifest, buffers, device = situation.bundle.manifest, situation.buffers, situation.device
    head = {manifest.head.weight} if manifest.head is not None and manifest.head.fresh else set()
    kept = {name: device.copy(buffers[name]) for name in head.union(manifest.factors) & buffers.keys()}
    for name in head:
        values = np.random.default_rng(0).standard_normal(buffers[name].shape, dtype=np.float32)
        device.write(buffers[name], values)
    try:
        yield
    finally:
        for name, value in kept.items():
            device.write(buffers[name], value)
