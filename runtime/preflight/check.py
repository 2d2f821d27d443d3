"""Before a run: does it fit into the memory that this process may hold? What can't fit is refused with advice.

A rough figure from the manifest settles most cases at no cost. Where it is above half of what is left, the
run is rehearsed in a child process, which is exact; where frozen matrices need not be copied, they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from zoedge.adapters import lora_branches
from zoedge.errors import RefusedError
from zoedge.manifest import Manifest
from zoedge.options import TuneOptions

from ..device import Device
from ..machine.limits import Limit
from ..machine.memory import Held
from ..plan import Plan
from .footprint import Footprint, footprint, tensor_bytes
from .rehearsal import rehearse
from .trial import Ask, Trial

_CLEAR = 0.5  # a rough figure below this share of what is left needs no closer look
_MOST_TRIES = 3
_MIB = 1 << 20
_LEAST_LENGTH = 8
_WITHOUT = (
    "memory is short: frozen matrices are used where they lie and not prepacked, slower on short inputs"
)


def check(ask: Ask, manifest: Manifest, device: Device, plan: Plan, longest: int) -> Plan:
    """Return the plan that fits: one that may go without prepacking, and says so.

    Args:
        ask: the run: bundle, data and the user's options.
        manifest: the bundle's.
        device: what will run it.
        plan: what is to be done.
        longest: tokens of the longest row; 0 where rows have none.

    Raises:
        RefusedError: it can't fit; the message says what would.
    """
    now = device.held()
    allowed = device.limits(now)
    rough = footprint(manifest, plan.options, longest, device)
    if not _tight(rough, allowed, now, tensor_bytes(manifest.parameters)):
        return _with(plan, "yes" if plan.options.prepack == "auto" else plan.options.prepack)
    ask = msgspec.structs.replace(ask, memory_only=True, may_hold=_least(allowed))
    for prepack in _choices(plan.options, manifest):
        options = msgspec.structs.replace(ask.options, prepack=prepack)
        if _short_of(_tried(msgspec.structs.replace(ask, options=options)), allowed) is None:
            return _with(plan, prepack)
    options = msgspec.structs.replace(ask.options, prepack=_choices(plan.options, manifest)[-1])
    raise RefusedError(
        _refusal(msgspec.structs.replace(ask, options=options), manifest, plan, rough, allowed, longest)
    )


def _with(plan: Plan, prepack: str) -> Plan:
    chosen = prepack == "no" and plan.options.prepack == "auto"
    options = msgspec.structs.replace(plan.options, prepack=prepack)
    return replace(plan, options=options, notes=(*plan.notes, *((_WITHOUT,) if chosen else ())))


def _choices(options: TuneOptions, manifest: Manifest) -> tuple[str, ...]:
    """Return the settings of ``prepack`` to try; quantised matrices are slow unless prepacked."""
    if options.prepack != "auto":
        return (options.prepack,)
    frozen = [p for p in manifest.parameters if not p.trainable and len(p.shape) >= 2]
    return ("yes", "no") if any(p.dtype == "float32" for p in frozen) and _plain(manifest) else ("yes",)


def _plain(manifest: Manifest) -> bool:
    return not any("int" in p.dtype for p in manifest.parameters if len(p.shape) >= 2)


def _tight(rough: Footprint, allowed: list[Limit], now: Held, files: int) -> bool:
    needs = {
        "anonymous": rough.total,
        "data": rough.total + files,  # mapped
        "address": rough.total + 2 * files,
        "device": rough.device,
    }
    return any(needs[limit.kind] > _CLEAR * (limit.allowed - getattr(now, limit.kind)) for limit in allowed)


def _least(allowed: list[Limit]) -> int | None:
    return min((limit.allowed for limit in allowed if limit.kind == "anonymous"), default=None)


def _tried(ask: Ask) -> Trial | None:
    """Return what a rehearsal saw; None where it took more than there is."""
    try:
        return rehearse(ask)
    except RefusedError:
        return None


def _short_of(trial: Trial | None, allowed: list[Limit]) -> str | None:
    """Return what a run lacks, in words; None where it fits."""
    if trial is None:
        least = min(allowed, key=lambda limit: limit.allowed)
        return f"more than the {least.allowed // _MIB} MiB of the {least.name}"
    for limit in allowed:
        need = int(getattr(trial.most, limit.kind))
        if need > limit.allowed:
            return f"about {need // _MIB} MiB, above the {limit.allowed // _MIB} MiB of the {limit.name}"
    return None


def _refusal(
    ask: Ask, manifest: Manifest, plan: Plan, rough: Footprint, allowed: list[Limit], longest: int
) -> str:
    unlimited = msgspec.structs.replace(ask, may_hold=_machine(allowed))
    needs = _short_of(_tried(unlimited), allowed) or f"about {rough.total // _MIB} MiB more than it has"
    advice = next(_fitting(ask, manifest, plan, allowed, longest), None) or _last_resort(manifest, rough)
    return f"this run needs {needs}: {advice}, or skip this check with --no-preflight"


def _machine(allowed: list[Limit]) -> int | None:
    """Return what the machine has, limits of this process aside: a figure is worth a larger rehearsal."""
    return max((limit.allowed for limit in allowed if limit.kind == "anonymous"), default=None)


def _fitting(ask: Ask, manifest: Manifest, plan: Plan, allowed: list[Limit], longest: int) -> Iterator[str]:
    """Yield what was rehearsed and fits: fewer rows a pass, else shorter rows."""
    rows = plan.options.micro_batch_size or plan.options.batch_size
    for micro in sorted({max(1, rows // 2), max(1, rows // 4), 1}, reverse=True)[:_MOST_TRIES]:
        options = msgspec.structs.replace(ask.options, micro_batch_size=micro)
        if (
            micro < max(rows, 2)
            and _short_of(_tried(msgspec.structs.replace(ask, options=options)), allowed) is None
        ):
            yield f"use --micro-batch-size {micro}"
    if manifest.text is None:
        return
    for length in (longest // 2, longest // 4, longest // 8):
        if length < _LEAST_LENGTH:
            return
        options = msgspec.structs.replace(ask.options, micro_batch_size=1)
        shorter = msgspec.structs.replace(ask, data=None, sequence_length=length, options=options)
        if _short_of(_tried(shorter), allowed) is None:
            yield f"use --micro-batch-size 1 and --max-seq-length {length} at export"


def _last_resort(manifest: Manifest, rough: Footprint) -> str:
    """Return what makes the weights themselves smaller, where even one short row doesn't fit."""
    factors = set(manifest.factors)
    beside = tensor_bytes(p for p in manifest.trainable if p.name in factors)
    dense = tensor_bytes(manifest.trainable) - beside
    if dense > max(beside, rough.copied):
        return f"export with --train lora (what is trained takes {rough.trained // _MIB} MiB)"
    branches = lora_branches(manifest)
    if beside > rough.copied and branches:
        rank = max(1, branches[0].rank // 2)
        return f"export with --lora-rank {rank} (what is trained takes {rough.trained // _MIB} MiB)"
    return "export with --quantize int8"
