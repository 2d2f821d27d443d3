"""Before a run: does it fit into the memory that this process may hold? What can't fit is refused with advice.

A rough figure from the manifest settles most cases at no cost. Where it is above half of what is left, the
run is rehearsed in a child process, which is exact; where frozen matrices need not be copied, they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import msgspec

from zoedge.adapters import lora_branches
from zoedge.errors import RefusedError
from zoedge.manifest import Manifest
from zoedge.options import TuneOptions

from ..device import Device
from ..machine.limits import Kind, Limit
from ..machine.memory import Held
from ..plan import Plan
from .footprint import Footprint, footprint, tensor_bytes
from .rehearsal import TooMuchError, rehearse
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
    ask = msgspec.structs.replace(ask, memory_only=True, may_hold=_bounds(allowed, min))
    choices = _choices(plan.options, manifest, device)
    for prepack in choices:
        options = msgspec.structs.replace(ask.options, prepack=prepack)
        if _short_of(_tried(msgspec.structs.replace(ask, options=options)), allowed) is None:
            return _with(plan, prepack)
    options = msgspec.structs.replace(ask.options, prepack=choices[-1])
    ask = msgspec.structs.replace(ask, options=options)
    raise RefusedError(_refusal(ask, manifest, device, plan, rough, allowed, longest))


def _with(plan: Plan, prepack: str) -> Plan:
    chosen = prepack == "no" and plan.options.prepack == "auto"
    options = msgspec.structs.replace(plan.options, prepack=prepack)
    return replace(plan, options=options, notes=(*plan.notes, *((_WITHOUT,) if chosen else ())))


def _choices(options: TuneOptions, manifest: Manifest, device: Device) -> tuple[str, ...]:
    """Return the settings of ``prepack`` to try; quantised matrices are slow unless prepacked."""
    if device.takes_frozen:
        return ("yes",)  # nothing is copied either way
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


def _bounds(allowed: list[Limit], choose: Callable[[Iterable[int]], int]) -> dict[Kind, int]:
    """Return what a rehearsal may hold of each kind that it can be watched for."""
    kinds: tuple[Kind, ...] = ("anonymous", "device")
    found = {kind: [limit.allowed for limit in allowed if limit.kind == kind] for kind in kinds}
    return {kind: choose(values) for kind, values in found.items() if values}


def _tried(ask: Ask) -> Trial | Kind:
    """Return what a rehearsal saw; the kind of memory of which it took more than there is."""
    try:
        return rehearse(ask)
    except TooMuchError as error:
        return error.kind


def _short_of(trial: Trial | Kind, allowed: list[Limit]) -> str | None:
    """Return what a run lacks, in words; None where it fits."""
    if isinstance(trial, str):
        limits = [limit for limit in allowed if (limit.kind == "device") == (trial == "device")]
        least = min(limits or allowed, key=lambda limit: limit.allowed)
        return f"more than the {least.allowed // _MIB} MiB of the {least.name}"
    for limit in allowed:
        need = int(getattr(trial.most, limit.kind))
        if need > limit.allowed:
            return f"about {need // _MIB} MiB, above the {limit.allowed // _MIB} MiB of the {limit.name}"
    return None


def _refusal(
    ask: Ask,
    manifest: Manifest,
    device: Device,
    plan: Plan,
    rough: Footprint,
    allowed: list[Limit],
    longest: int,
) -> str:
    # what the machine has, limits of this process aside: a figure is worth a larger rehearsal
    unlimited = msgspec.structs.replace(ask, may_hold=_bounds(allowed, max))
    more = max(rough.total, rough.device)
    needs = _short_of(_tried(unlimited), allowed) or f"about {more // _MIB} MiB more than it has"
    fitting = _fitting(ask, manifest, device, plan, allowed, longest)
    advice = next(fitting, None) or _last_resort(manifest, rough)
    return f"this run needs {needs}: {advice}, or skip this check with --no-preflight"


def _fits(ask: Ask, allowed: list[Limit], **changes: object) -> bool:
    """Return whether a run with other options was rehearsed and fits."""
    options = msgspec.structs.replace(ask.options, **changes)
    return _short_of(_tried(msgspec.structs.replace(ask, options=options)), allowed) is None


def _fitting(
    ask: Ask, manifest: Manifest, device: Device, plan: Plan, allowed: list[Limit], longest: int
) -> Iterator[str]:
    """Yield what was rehearsed and fits: fewer rows a pass, passes in float16 on a GPU, else shorter rows."""
    rows = plan.options.micro_batch_size or plan.options.batch_size
    for micro in sorted({max(1, rows // 2), max(1, rows // 4), 1}, reverse=True)[:_MOST_TRIES]:
        if micro < max(rows, 2) and _fits(ask, allowed, micro_batch_size=micro):
            yield f"use --micro-batch-size {micro}"
    if device.own_memory and device.precision != "float16" and _fits(ask, allowed, precision="float16"):
        yield "use --precision float16"
    if manifest.text is None:
        return
    for length in (longest // 2, longest // 4, longest // 8):
        if length < _LEAST_LENGTH:
            return
        shorter = msgspec.structs.replace(ask, data=None, sequence_length=length)
        if _fits(shorter, allowed, micro_batch_size=1):
            yield f"use --micro-batch-size 1 and --max-seq-length {length} at export"


def _last_resort(manifest: Manifest, rough: Footprint) -> str:
    """Return what makes the weights themselves smaller, where even one short row doesn't fit."""
    factors = set(manifest.factors)
    beside = tensor_bytes(p for p in manifest.trainable if p.name in factors)
    dense = tensor_bytes(manifest.trainable) - beside
    base = rough.copied + rough.frozen
    if dense > max(beside, base):
        return f"export with --train lora (what is trained takes {rough.trained // _MIB} MiB)"
    branches = lora_branches(manifest)
    if beside > base and branches:
        rank = max(1, branches[0].rank // 2)
        return f"export with --lora-rank {rank} (what is trained takes {rough.trained // _MIB} MiB)"
    return "export with --quantize int8"
