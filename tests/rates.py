"""Learning rates with which each method descends in the tests: what a new method adds is one row."""

from __future__ import annotations

from typing import NamedTuple

from zoedge.methods import RECIPES


class Rates(NamedTuple):
    """By what is tuned.

    Attributes:
        parabola: a parabola of some hundred elements.
        adapters: one over LoRA factors.
        wide: a parabola of tens of thousands of elements, a few steps.
        share: the same on a share of its elements, until it has nearly halved; None where a method has no such share.
        network: a small classifier.
    """

    parabola: float
    adapters: float
    wide: float
    share: float | None
    network: float


RATES = {
    "adazeta": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=1e-3, network=1e-2),
    "dizo": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=None, network=1e-2),
    "fzoo": Rates(parabola=0.1, adapters=0.03, wide=1e-3, share=0.15, network=0.02),
    "helene": Rates(parabola=0.02, adapters=5e-3, wide=0.03, share=None, network=0.02),
    "lezo": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=1e-3, network=1e-2),
    "lozo": Rates(parabola=2e-3, adapters=4e-3, wide=1e-5, share=None, network=1e-2),
    "lozo-m": Rates(parabola=2e-3, adapters=4e-3, wide=1e-5, share=None, network=1e-2),
    "meazo": Rates(parabola=0.05, adapters=0.02, wide=1e-3, share=0.15, network=0.02),
    "mezo": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=1e-3, network=1e-2),
    "sparse-mezo": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=None, network=1e-2),
    "subzero": Rates(parabola=2e-3, adapters=4e-3, wide=1e-5, share=None, network=1e-2),
    "zo-adam": Rates(parabola=0.02, adapters=0.01, wide=1e-3, share=None, network=0.01),
    "zo-sgd-cons": Rates(parabola=2e-3, adapters=1e-4, wide=1e-5, share=None, network=1e-2),
    "zo-sgd-momentum": Rates(parabola=2e-4, adapters=1e-5, wide=1e-6, share=None, network=2e-3),
    "zo-sgd-sign": Rates(parabola=0.04, adapters=0.01, wide=1e-3, share=0.15, network=0.01),
}
METHODS = sorted(RECIPES)
# methods whose step on a tensor is shorter by the number of its elements
BY_SIZE = {"helene"}
# what a method must be given where tensors have no layers, or none of those that it is for
ANY_TENSORS = {"dizo": {"project": "all"}, "lezo": {"active_layers": 1.0}}
