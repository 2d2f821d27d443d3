"""The sections of the benchmark: each has a time limit, and one that fails is told and leaves the others alone."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from variants.shapes import Shape

from gpu.machine import machine
from gpu.names import MEMORY_AT, SHAPES
from gpu.processes import data_folder, measured
from gpu.ratios import ratios
from gpu.variant import Place
from gpu.variants import PRECISIONS

STEPS = ("stock", *(f"full {p}" for p in PRECISIONS), *(f"LoRA {p}" for p in PRECISIONS), "torch MeZO")
POINTS = ("LoRA 16 points", "LoRA 16 points, a pass each", "LoRA 16 points float16")
LARGE = ("stock float16", "LoRA q,v float16", "torch MeZO LoRA q,v float16", "torch MeZO peft q,v float16")


@dataclass(frozen=True)
class Section:
    """Processes that take turns.

    Attributes:
        name: of it.
        variants: their names.
        shape: of a batch.
        seconds: that it may take.
        memory: whether memory is taken.
        rounds: turns of each process.
    """

    name: str
    variants: tuple[str, ...]
    shape: Shape
    seconds: float
    memory: bool = False
    rounds: int = 11


def sections(family: str, patience: float = 1.0) -> list[Section]:
    """Return all sections, the most telling first; ``patience`` multiplies their limits."""
    steps, (large,) = (
        [Shape.parse(text, "last8") for text in SHAPES[family][name]] for name in ("steps", "large")
    )
    at = Shape.parse(MEMORY_AT[family], "last8")
    inner = sorted(steps, key=lambda shape: shape != at)
    every = [
        *(Section(f"steps {s.name}", STEPS, s, 75.0 if s == at else 50.0, memory=s == at) for s in inner),
        *(Section(f"points {s.name}", POINTS, s, 45.0, rounds=7) for s in inner),
        Section(f"large {large.name}", LARGE, large, 110.0, memory=True, rounds=7),
        Section("noise", ("noise",), steps[0], 30.0),
    ]
    return [replace(s, seconds=s.seconds * patience) for s in every]


def chosen(every: Sequence[Section], text: str) -> list[Section]:
    """Return the sections whose names begin with one of those given; all for "".

    Raises:
        SystemExit: one that is given fits none.
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    for part in wanted:
        if not any(s.name.startswith(part) for s in every):
            raise SystemExit(f"no section begins with {part!r}: use {', '.join(s.name for s in every)}")
    return [s for s in every if not wanted or any(s.name.startswith(part) for part in wanted)]


def run_all(
    wanted: Sequence[Section], place: Place, work: Path, seconds: float, keep: Callable[[Any], None]
) -> dict[str, Any]:
    """Run sections one after the other.

    Args:
        wanted: which.
        place: where; its ``data`` is made for each.
        work: a folder to write to.
        seconds: after which none is begun, and those that are end.
        keep: is given the result after each.

    Returns:
        What goes to the JSON file.
    """
    began = time.monotonic()
    result: dict[str, Any] = {"machine": machine(place.provider), "family": place.family, "sections": []}
    for section in wanted:
        left = seconds - (time.monotonic() - began)
        print(f"{section.name} ({left:.0f} s left)", file=sys.stderr, flush=True)
        result["sections"].append(_guarded(section, place, work, min(section.seconds, left)))
        result["seconds"] = time.monotonic() - began
        keep(result)
    return result


def _guarded(section: Section, place: Place, work: Path, seconds: float) -> dict[str, Any]:
    about = {"name": section.name, "shape": section.shape.name}
    if seconds < 10:
        return about | {"failed": "not begun: the time is up"}
    began = time.monotonic()
    try:
        found = _run(section, place, work, began + seconds)
    except Exception:
        traceback.print_exc()
        found = {"failed": traceback.format_exc(limit=-4)}
    return about | found | {"seconds": time.monotonic() - began}


def _run(section: Section, place: Place, work: Path, until: float) -> dict[str, Any]:
    data = data_folder(work, section.shape)
    here = Place(place.provider, place.bundles, data, place.family)
    figures = measured(section.variants, here, section.rounds, until, memory=section.memory)
    for f in figures:
        if f.failed:
            print(f"{f.variant} failed: {f.failed}", file=sys.stderr, flush=True)
    return {
        "variants": [msgspec.to_builtins(f) for f in figures],
        "ratios": ratios(figures, section.shape.name),
        "settings": asdict(section.shape) | {"rounds": section.rounds},
    }


def write(path: Path, result: Any) -> None:
    """Write a result as JSON."""
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
