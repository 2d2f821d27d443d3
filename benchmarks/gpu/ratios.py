"""What is compared with what, and what we want of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu.processes import Figures

TIME, MEMORY = "time", "memory"


@dataclass(frozen=True)
class Ratio:
    """``of`` over ``to``, each a variant and one of its parts: of wall-clock times in a round, or of peak memories.

    ``goals`` maps a shape's name, or "" for any, to the limit; ``at_least`` tells which side is good. Times are seconds
    an element where the parts are about elements.
    """

    name: str
    of: tuple[str, str]
    to: tuple[str, str]
    kind: str = TIME
    goals: Mapping[str, float] = field(default_factory=dict)
    at_least: bool = False

    def over(self, figures: Iterable[Figures], clock: str) -> list[float]:
        """Return each round's ratio (of memory: one); [] where there is none.

        Args:
            figures: of processes that took turns.
            clock: "wall" or "gpu".
        """
        found = {f.variant: f for f in figures}
        sides = [self._values(found.get(variant), part, clock) for variant, part in (self.of, self.to)]
        return [a / b for a, b in zip(*sides, strict=False) if a and b]

    def _values(self, figures: Figures | None, part: str, clock: str) -> list[float]:
        if figures is None:
            return []
        if self.kind == MEMORY:
            return [float(figures.memory)]
        elements = figures.elements.get(part, 1)
        return [value / elements for value in getattr(figures, clock).get(part, [])]


def _step(name: str, of: str, to: str, *goals: float, part: str = "step", at_least: bool = False) -> Ratio:
    limits = dict(zip(("B1 T16", "B8 T64", "B16 T128"), goals, strict=False))
    return Ratio(name, (of, "step"), (to, part), goals=limits, at_least=at_least)


# a step of "stock" is two forward passes
RATIOS = (
    _step("full float32 / two stock forwards", "full float32", "stock", 1.40, 0.98, 0.90),
    _step("full tf32 / two stock forwards", "full tf32", "stock"),
    _step("full float16 / two stock forwards", "full float16", "stock", 0.85, 0.42, 0.30),
    _step("LoRA float32 / two stock forwards", "LoRA float32", "stock"),
    _step("LoRA tf32 / two stock forwards", "LoRA tf32", "stock"),
    _step("LoRA float16 / two stock forwards", "LoRA float16", "stock"),
    _step("torch MeZO / full float32", "torch MeZO", "full float32", 11, 4, 2, at_least=True),
    _step("torch MeZO / full tf32", "torch MeZO", "full tf32"),
    _step("torch MeZO / full float16", "torch MeZO", "full float16", 18, 9, 6, at_least=True),
    Ratio("16-point LoRA step / 16 single passes", ("LoRA 16 points", "step"),
          ("LoRA 16 points, a pass each", "passes"), goals={"B1 T16": 0.15, "B8 T64": 0.6}),
    _step("16-point LoRA step / the same, a pass each", "LoRA 16 points", "LoRA 16 points, a pass each"),
    _step("16-point LoRA step, float16 / float32", "LoRA 16 points float16", "LoRA 16 points"),
    Ratio("peak memory, full float32 / stock", ("full float32", ""), ("stock", ""), MEMORY, {"": 0.85}),
    Ratio("peak memory, full float16 / stock", ("full float16", ""), ("stock", ""), MEMORY),
    Ratio("peak memory, LoRA float32 / stock", ("LoRA float32", ""), ("stock", ""), MEMORY),
    Ratio("torch / LoRA q,v float16", ("torch MeZO LoRA q,v float16", "step"), ("LoRA q,v float16", "step"),
          goals={"": 4.0}, at_least=True),
    Ratio("torch with peft / LoRA q,v float16", ("torch MeZO peft q,v float16", "step"),
          ("LoRA q,v float16", "step"), goals={"": 4.0}, at_least=True),
    Ratio("LoRA q,v float16 / two stock forwards", ("LoRA q,v float16", "step"), ("stock float16", "step")),
    Ratio("peak memory, LoRA q,v / stock, float16", ("LoRA q,v float16", ""), ("stock float16", ""), MEMORY,
          {"": 1.03}),
    *(Ratio(f"bandwidth of {part}{where} / of a copy", ("noise", f"copy{where}"), ("noise", f"{part}{where}"),
            goals={} if where else {"": 0.95}, at_least=True)
      for where in ("", " of the model") for part in ("gauss1", "gauss2", "gauss3", "signs", "signs2")),
)  # fmt: skip


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first quartile, the median and the third quartile."""
    return [float(q) for q in np.percentile(values, [25, 50, 75])]


def ratios(figures: Sequence[Figures], shape: str) -> list[dict[str, Any]]:
    """Return the ratios of processes that took turns, with their goals; those that can't be taken are left out."""
    found = []
    for ratio in RATIOS:
        values = ratio.over(figures, "wall")
        if not values:
            continue
        limit = ratio.goals.get(shape, ratio.goals.get(""))
        low, middle, high = quartiles(values)
        found.append(
            {
                "name": ratio.name,
                "shape": shape,
                "median": middle,
                "quartiles": [low, high],
                "rounds": len(values),
                "by_events": None
                if ratio.kind == MEMORY
                else quartiles(ratio.over(figures, "gpu") or values)[1],
                "goal": limit,
                "at_least": ratio.at_least,
                "met": None
                if limit is None
                else bool(middle >= limit if ratio.at_least else middle <= limit),
            }
        )
    return found
