"""What moves at a step: declared here, decided by ``runtime/spaces/support.py``, which has a narrowing for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Layers:
    """A share of the layers, drawn anew each step (LeZO, arXiv 2410.09823).

    Attributes:
        share: of the layers.
        remedy: what to do where there are no layers, in the words of a message.
    """

    share: float
    remedy: str = "leave it out"


@dataclass(frozen=True)
class Stretches:
    """A share of the elements, in stretches of 1,024 that are drawn anew each step."""

    share: float


@dataclass(frozen=True)
class Windows:
    """Low-rank directions keep their U and V for so many steps."""

    refresh: int


@dataclass(frozen=True)
class SmallMagnitudes:
    """The elements of each tensor that are small (Sparse-MeZO, arXiv 2402.15751, section 4).

    Attributes:
        sparsity: share of the elements that stay, the largest; a tensor's threshold is that quantile of its
            magnitudes as they were exported.
        constant: whether which elements these are is decided once, and not anew from the parameters before each step.
    """

    memory: ClassVar[str] = "a number a tensor and a bit an element"

    sparsity: float
    constant: bool = False


Scaled = Literal["no", "variance", "expectation"]


@dataclass(frozen=True)
class LayerScales:
    """Probes are shorter in layers of large weights or gradients (MeZO, arXiv 2305.17333, appendix B).

    With d the size of a layer over that of all, probes move by z / d, and updates by d z (variance-modified: as
    unbiased as without) or by z (expectation-modified). The size of weights is the root mean square of what was
    exported; that of gradients is the derivative along a direction of the layer alone, root mean square over queries,
    for which the first steps of every cycle move one layer each, and only as far as their probes.

    Attributes:
        unbiased: whether updates are longer by what probes are shorter.
        gradients: whether sizes are those of gradients.
        every: usual steps between looks at gradients; None for a single look, as the run begins.
    """

    unbiased: bool
    gradients: bool = False
    every: int | None = None


Projected = Literal["query-value", "value-key", "all"]
_CALLED = {
    "query": {"q", "q_proj", "query", "q_lin", "wq"},
    "key": {"k", "k_proj", "key", "k_lin", "wk"},
    "value": {"v", "v_proj", "value", "v_lin", "wv"},
}


@dataclass(frozen=True)
class Projection:
    """After so many usual steps, some that move one scalar a matrix: how far it has gone (DiZO, arXiv 2502.03304).

    Attributes:
        which: of the matrices.
        every: usual steps before.
        times: steps of a projection.
        range: how far a change may be scaled, as a share.
        eps: perturbation of a scalar.
    """

    memory: ClassVar[str] = "the exported values of what is projected, in their file"

    which: Projected
    every: int
    times: int
    range: float
    eps: float

    @property
    def cycle(self) -> int:
        """Steps after which the next usual ones begin."""
        return self.every + self.times

    def takes(self, name: str) -> bool:
        """Return whether a matrix of that name is projected."""
        called = set().union(*(_CALLED[role] for role in self.which.split("-") if role in _CALLED))
        return self.which == "all" or not called.isdisjoint(name.split("."))


# any of these, or one that a narrowing is registered for; what a run keeps for it is its ``memory``, in words
Support = object
