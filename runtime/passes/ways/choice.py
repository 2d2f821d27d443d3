"""Chooses by a measurement at the start how a run's points are measured: one by one, or several in a pass.

The whole graph, a pass for each point, is what the others are held against: another way is taken only where
it is faster here and gives the same bits on the run's own rows, so that a journal doesn't depend on the choice.
Where another way gives other bits by its nature, a rule decides, and the run keeps what it decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from zoedge.errors import InputError
from zoedge.forms import WHOLE
from zoedge.manifest import LOSS_FILE

from ..bounds import EVAL_ROWS
from ..prefix_cache import PrefixCache
from ..probing import Forward, OneByOne, Probing, Together
from .caching import Tried
from .situation import Situation
from .timing import bits, timed, trial_values
from .use import FormUse, form_uses

ROWS_TOGETHER = 128  # of an int8 base, below which a pass costs more for its nodes than for its rows
# of a pass that several points share: OPT-125M gained nothing any more from sharing passes of 512 tokens
TOKENS_TOGETHER = 512
_FASTER = 0.95  # of the time so far: less is not worth another way


class Way(NamedTuple):
    """A form of the graph, and how many points share a pass of it."""

    form: str
    points: int


@dataclass(frozen=True)
class Choice:
    """What a run will measure with.

    Attributes:
        forward: runs the graph.
        probing: measures points with it.
        note: a sentence where that isn't the plain way.
        cache: keeps rows' results; None where nothing does.
        form: of the whole graph, which a run keeps; what a timing chose may change.
        asked: points a pass where the user or a rule decided them; None where a timing did.
    """

    forward: Forward
    probing: Probing
    note: str | None = None
    cache: PrefixCache | None = None
    form: str = WHOLE
    asked: int | None = None


def choose_way(situation: Situation) -> Choice:
    """Return the fastest way that gives the same bits, or the one asked for.

    Args:
        situation: the run's.

    Raises:
        InputError: several points a pass, or a form of the graph, were asked for and don't fit; or the run was
            begun with a form that isn't known.
    """
    situation = replace(situation, form=_form_by_rule(situation))
    asked = situation.options.points_per_pass
    ruled = _points_by_rule(situation) if asked is None else None
    choice = _ways(situation, asked or ruled)
    if ruled:
        shared = ", and the steps to which int8 rounds activations" if situation.rounds_together else ""
        told = f"{ruled} points share a pass{shared}"
        choice = replace(choice, note="; ".join(n for n in (told, choice.note) if n))
    return replace(choice, form=situation.form or WHOLE, asked=asked or ruled)


def _form_by_rule(situation: Situation) -> str:
    """Return the form of the whole graph: that of the run so far, else the first that is usable."""
    wholes = form_uses(timed=False)
    if situation.form is None:
        return next((name for name, use in wholes.items() if use.usable(situation)), WHOLE)
    if situation.form not in (WHOLE, *wholes):
        raise InputError(
            f"the run was begun with the graph form {situation.form!r}, which this zoedge doesn't have: resume it "
            "with the version that began it"
        )
    return situation.form


def _points_by_rule(situation: Situation) -> int | None:
    """Return how many points share a pass, where that changes numbers and so no timing may decide it.

    int8 bases round activations by the largest of a pass; points that share it are rounded to one grid. And there are
    devices whose products add in another order in larger passes.
    """
    together = ROWS_TOGETHER if situation.rounds_together else situation.device.tokens_together
    if situation.rows is None or together is None or not _stacking(situation):
        return None
    count = min(situation.points, together // situation.rows)
    return count if count > 1 else None


def _stacking(situation: Situation) -> dict[str, FormUse]:
    return {n: use for n, use in _timed_forms(situation).items() if use.stacks(situation)}


def _timed_forms(situation: Situation) -> dict[str, FormUse]:
    return {n: use for n, use in form_uses(timed=True).items() if use.usable(situation)}


def _ways(situation: Situation, asked: int | None) -> Choice:
    forms = _timed_forms(situation)
    if asked is not None and asked > 1:
        forms = dict(list(_stacking(situation).items())[:1])
        if not forms:
            raise InputError(
                f"--points-per-pass {asked} needs a bundle whose only moved tensors are LoRA branches: leave it out"
            )
    timed_here = situation.device.tokens_together is None
    if asked == 1 or not forms or situation.points < 2 or not (asked or timed_here):
        return _whole(situation)
    with trial_values(situation):
        tried = {name: use.try_cache(situation) for name, use in forms.items()}
        if asked is None:
            seconds = _seconds_by_way(situation, forms)
        else:
            seconds = {
                Way(name, asked): _asked_seconds(situation, use, asked, tried[name])
                for name, use in forms.items()
            }
    situation.device.give_back()  # what the sessions that were tried held
    return _best(situation, seconds, tried, measured=asked is None)


def _asked_seconds(situation: Situation, use: FormUse, count: int, tried: Tried) -> float:
    """Return the seconds of a step, which matter where a cache may save some of them."""
    if tried.cache is None:
        return 0.0
    return timed(situation, _probing(situation, use.open(situation), count))


def _best(
    situation: Situation, seconds: Mapping[Way, float], tried: Mapping[str, Tried], *, measured: bool
) -> Choice:
    """Return the fastest way, with a cache where that saves enough of a step."""
    way, tried = _without_poor_caches(seconds, tried)
    notes = [one.note for one in tried.values() if one.cache is None and one.note is not None]
    if way.form == WHOLE:
        return replace(_whole(situation), note="; ".join(notes) or None)
    use, kept = form_uses(timed=True)[way.form], tried[way.form]
    hows = [f"{way.points} points share a pass"] if way.points > 1 and measured else []
    if kept.cache is not None and kept.note is not None:
        hows.append(kept.note)
    elif way.points == 1:
        hows.append(use.saves)
    told = [f"{' and '.join(hows)}: faster here, with the same results"] if hows else []
    forward = use.open(situation, kept.cache)
    note = "; ".join([*told, *notes]) or None
    return Choice(forward, _probing(situation, forward, way.points), note, kept.cache)


def _without_poor_caches(
    seconds: Mapping[Way, float], tried: Mapping[str, Tried]
) -> tuple[Way, dict[str, Tried]]:
    """Return the fastest way, with the caches closed that it has no use for or that save too little of its step."""
    kept = dict(tried)
    while True:
        way = _fastest(seconds, {name: one.saving for name, one in kept.items()})
        poor = [
            name
            for name, one in kept.items()
            if one.cache is not None and (name != way.form or one.saving < (1 - _FASTER) * seconds[way])
        ]
        if not poor:
            return way, kept
        for name in poor:
            kept[name].close()
            kept[name] = Tried()


def _whole(situation: Situation) -> Choice:
    form = situation.form or WHOLE
    whole = situation.engine(LOSS_FILE) if form == WHOLE else form_uses(timed=False)[form].open(situation)
    return Choice(whole, OneByOne(whole, situation.device.ahead))


def _probing(situation: Situation, forward: Forward, count: int) -> Probing:
    """Return the way that measures ``count`` points a pass."""
    if count == 1:
        return OneByOne(forward, situation.device.ahead)
    varying = {name: situation.buffers[name] for name in sorted(situation.varying)}
    return Together(forward, varying, count, situation.device)


def _fastest(seconds: Mapping[Way, float], saving: Mapping[str, float]) -> Way:
    """Return the fastest way, where passes of a form save some seconds besides; of equal ones the first."""
    best, *others = seconds
    least = seconds[best] - saving.get(best.form, 0.0)
    for way in others:
        needed = seconds[way] - saving.get(way.form, 0.0)
        if needed < _FASTER * least:
            best, least = way, needed
    return best


def _seconds_by_way(situation: Situation, forms: Mapping[str, FormUse]) -> dict[Way, float]:
    """Return the seconds of a step, the whole graph's first; only ways of the same bits."""
    whole = _whole(situation).probing
    seconds, wanted = {Way(WHOLE, 1): timed(situation, whole)}, bits(situation, whole)
    del whole  # one session at a time: measuring must not cost memory that the run doesn't
    for name, use in forms.items():
        by_count = _seconds_by_count(situation, use, wanted)
        seconds |= {Way(name, count): needed for count, needed in by_count.items()}
    return seconds


def _seconds_by_count(situation: Situation, use: FormUse, wanted: list[bytes]) -> dict[int, float]:
    """Return the seconds of a step by points a pass; only those that give the wanted bits."""
    forward, seconds = use.open(situation), {}
    count, limit, least = 1, _most_points(situation, use), np.inf
    while count <= limit:
        probing = _probing(situation, forward, count)
        needed = timed(situation, probing)
        if needed >= _FASTER * least:
            break  # larger passes are slower still
        if bits(situation, probing) == wanted:
            seconds[count] = needed
        least = needed
        count = min(2 * count, limit) if count < limit else limit + 1
    return seconds


def _most_points(situation: Situation, use: FormUse) -> int:
    """Return the most points that a shared pass is tried with: beyond so many rows it holds memory for nothing."""
    if situation.rounds_together or not use.stacks(situation):
        return 1
    tokens = [b.inputs["input_ids"].size for b in situation.batch if "input_ids" in b.inputs]
    rows = [len(next(iter(b.targets.values()))) for b in situation.batch]
    room = TOKENS_TOGETHER // max(tokens) if tokens else EVAL_ROWS // max(rows)
    return max(1, min(situation.points, room))
