"""Sparse-MeZO: MeZO on the weights of small magnitude (arXiv 2402.15751).

The threshold of each tensor is a quantile of its exported magnitudes (section 4.1); which elements are below it is
seen anew before each step, from the unperturbed weights, or decided once. The paper's GetMask prints theta <= h; its
text says magnitudes, and so it is here. Nothing is stored but the thresholds: a step's masks are a bit an element.
"""

from typing import Annotated, Literal

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .options import Options
from .rules import Sgd
from .support import SmallMagnitudes, Support
from .two_point import two_point


class SparseMezoOptions(Options, frozen=True):
    """Those of ``Options``, and which elements stay."""

    sparsity: Annotated[
        float, Setting("share of each tensor's elements that stay, the largest", least=0, below=1)
    ] = 0.8
    mask: Annotated[
        Literal["dynamic", "constant"],
        Setting("whether the small elements are seen anew before each step or decided once"),
    ] = "dynamic"

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows the elements that a step moves."""
        if self.sparsity == 0.0:  # what outgrows its tensor's largest element would stay
            return super().support
        return (*super().support, SmallMagnitudes(self.sparsity, self.mask == "constant"))


def build(options: SparseMezoOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay))


RECIPE = Recipe(
    name="sparse-mezo",
    summary="mezo that moves the smallest weights of each tensor and leaves the large ones",
    source="arXiv 2402.15751, algorithm 1",
    # a fifth of the elements moves, so that steps of mezo's length may be longer in each
    defaults=Defaults(
        activations=None,
        factors=Length(lr=5e-4, eps=1e-2),
        small=Length(lr=3e-4, eps=1e-2),
        dense=Length(lr=3e-6, eps=1e-3),
        schedule="linear",
        steps=2000,
    ),
    options=SparseMezoOptions,
    build=build,
)
