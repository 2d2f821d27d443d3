"""How many elements a step moves, where it moves only a share of them (``--active-elements``).

Sparse random directions for zeroth-order steps: "sparse gradient" of ZO-Bench (arXiv 2402.11592) and R-MeZO, the
baseline of Sparse-MeZO (arXiv 2402.15751), which finds it about as good as MeZO. They draw single elements; here
stretches of them are drawn, so that noise and memory traffic fall with the share.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from zoedge.adapters import lora_branches
from zoedge.manifest import Manifest, Parameter
from zoedge.methods import Dense, Method
from zoedge.methods.support import Stretches
from zoedge.options import TuneOptions

from ..noise.reference import STRETCH

_RARELY = 0.01  # of the steps; fewer that move nothing aren't worth a word


def size(parameter: Parameter) -> int:
    """Return how many elements a parameter has."""
    return int(np.prod(parameter.shape, dtype=np.int64))


def written(manifest: Manifest, options: TuneOptions, solved: Collection[str]) -> list[Parameter]:
    """Return the parameters that a move writes: B alone where a small matrix moves in a branch."""
    kept = set(solved)
    if options.lora_space == "activations":
        kept |= {branch.a for branch in lora_branches(manifest)}
    return [p for p in manifest.trainable if p.name not in kept]


def moved_singly(
    manifest: Manifest, options: TuneOptions, solved: Collection[str], method: Method
) -> list[Parameter]:
    """Return the parameters of which a share of the elements can be moved.

    Args:
        manifest: the bundle's.
        options: of a plan.
        solved: names of the head's tensors when directions don't move it.
        method: the run's.
    """
    if method.directions.kind != Dense.kind:
        return []  # matrices move as a whole
    whole = {branch.b for branch in lora_branches(manifest)} if options.lora_space == "activations" else set()
    return [p for p in written(manifest, options, solved) if p.name not in whole]


def active_share(method: Method) -> float:
    """Return the share of the elements that a step of a method moves."""
    return math.prod(s.share for s in method.support if isinstance(s, Stretches))


def idle(singly: Sequence[Parameter], share: float) -> tuple[str, ...]:
    """Return a sentence where a share of these elements, the only ones that move, leaves steps without any."""
    count = sum(-(-size(p) // STRETCH) for p in singly)
    steps = (1.0 - share) ** count
    if steps < _RARELY:
        return ()
    sentence = (
        f"--active-elements {share:g} leaves {steps:.0%} of the steps without a move, as what is tuned has only "
        f"{count} stretches of {STRETCH:,} elements to draw from: give a larger share, or leave it out"
    )
    return (sentence,)
