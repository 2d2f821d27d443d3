"""What is compared with what, what we want of it, and the check that all variants do the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from variants.processes import Measured

# groups of processes that run at the same time: few enough for the memory of a small machine
GROUPS = (
    ("stock", "full", "full-signs", "full-signs-quarter", "lora", "lora-qv", "lora-int8", "lora-qv-int8"),
    ("full", "torch-mezo"),
    ("lora-int8", "lora", "torch-mezo-lora"),
    ("full", "torch-adamw"),
    ("lora-int8", "lora", "torch-adamw-lora"),
)
SAME = 1e-4  # relative, of losses before the first step; measured: some 1e-7
SAME_INT8 = 5e-2


@dataclass(frozen=True)
class Ratio:
    """``of`` over ``to``: of steps' times in the same round, or of peak memories.

    ``goals`` maps a shape's name, or "" for any shape, to the limit; ``at_least`` tells which side is good.
    """

    name: str
    of: str
    to: str
    value: Callable[[Measured], Sequence[float]]
    scale: float = 1.0
    goals: Mapping[str, float] = field(default_factory=dict)
    at_least: bool = False

    def goal(self, shape: str) -> str:
        limit = self.goals.get(shape, self.goals.get(""))
        return "" if limit is None else f"{'>=' if self.at_least else '<='} {limit:g}"

    def over(self, groups: Sequence[Sequence[Measured]]) -> list[float]:
        """Return each round's ratio (of memory: one), from the first group that has both; [] where there is none."""
        for group in groups:
            found = {m.variant: m for m in group}
            if {self.of, self.to} <= found.keys():
                pairs = zip(self.value(found[self.of]), self.value(found[self.to]), strict=True)
                return [self.scale * a / b for a, b in pairs]
        return []


def _seconds(measured: Measured) -> Sequence[float]:
    return measured.seconds


# a step of "stock" is two forward passes
RATIOS = (
    Ratio("full / two stock forwards", "full", "stock", _seconds,
          goals={"B1 T16": 2.5, "B8 T64": 0.90, "B16 T128": 0.72}),
    Ratio("full, sign directions / two stock forwards", "full-signs", "stock", _seconds),
    Ratio("full, signs on a quarter of the elements / two stock forwards", "full-signs-quarter", "stock", _seconds),
    Ratio("LoRA / two stock forwards", "lora", "stock", _seconds),
    Ratio("LoRA q,v / two stock forwards", "lora-qv", "stock", _seconds),
    Ratio("LoRA int8 / one stock forward", "lora-int8", "stock", _seconds, scale=2.0, goals={"": 0.65}),
    Ratio("LoRA q,v int8 / one stock forward", "lora-qv-int8", "stock", _seconds, scale=2.0),
    Ratio("torch MeZO / full", "torch-mezo", "full", _seconds, goals={"": 5.0}, at_least=True),
    Ratio("torch MeZO LoRA / LoRA", "torch-mezo-lora", "lora", _seconds),
    Ratio("torch AdamW / full", "torch-adamw", "full", _seconds),
    Ratio("torch AdamW LoRA / LoRA", "torch-adamw-lora", "lora", _seconds),
    Ratio("torch AdamW LoRA / LoRA int8", "torch-adamw-lora", "lora-int8", _seconds, goals={"": 4.0},
          at_least=True),
    Ratio("peak RSS, full / stock", "full", "stock", lambda m: [m.rss], goals={"": 0.75}),
    Ratio("peak anonymous, LoRA int8 / stock", "lora-int8", "stock", lambda m: [m.anon], goals={"": 0.35}),
    Ratio("the same in steps alone", "lora-int8", "stock", lambda m: [m.anon_steps]),
)  # fmt: skip


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first quartile, the median and the third quartile."""
    return [float(q) for q in np.percentile(values, [25, 50, 75])]


def check_losses(group: Sequence[Measured], reference: float) -> None:
    """Stop unless every variant begins with the same loss: they do the same work.

    Raises:
        SystemExit: they don't.
    """
    for measured in group:
        limit = SAME_INT8 if measured.variant.endswith("int8") else SAME
        if not abs(measured.loss - reference) <= limit * abs(reference):
            raise SystemExit(
                f"{measured.variant} has the loss {measured.loss:.6f} and others {reference:.6f}"
            )


def summary(groups: Sequence[Sequence[Measured]], shape: str) -> dict[str, Any]:
    """Return what is kept of a shape: every process, and the ratios with their goals."""
    return {"groups": [[vars(m) for m in group] for group in groups], "ratios": ratios([groups], shape)}


def ratios(runs: Sequence[Sequence[Sequence[Measured]]], shape: str) -> dict[str, dict[str, Any]]:
    """Return each ratio over the rounds of all runs of a shape, with its goal; those that no run has are left out."""
    found = {}
    for ratio in RATIOS:
        values = [value for groups in runs for value in ratio.over(groups)]
        if values:
            found[ratio.name] = {
                "quartiles": quartiles(values),
                "values": len(values),
                "goal": ratio.goal(shape),
            }
    return found
