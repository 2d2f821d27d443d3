"""MeZO: two-point estimates along a Gaussian direction (arXiv 2305.17333).

Algorithm 1; with more queries, n-SPSA at the learning rate that is given (the paper's code multiplies it with n).
Of its appendix B the layer-wise variants whose scales are the weights' own size; those of gradients take passes for
each layer, and the paper finds neither to help consistently. Its medium code divides that size by the root of itself;
here it is the root mean square.
"""

from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .options import DenseOptions
from .rules import Sgd
from .support import LayerScales, Scaled, Support
from .two_point import two_point


class MezoOptions(DenseOptions, frozen=True):
    """Those of ``DenseOptions``, and whether layers have scales of their own."""

    layer_scaling: Annotated[
        Scaled,
        Setting(
            "probes are shorter in layers of large weights: not at all, with updates as much longer (variance), or "
            "with updates as they are (expectation)"
        ),
    ] = "no"

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows and scales what a step moves."""
        scales = () if self.layer_scaling == "no" else (LayerScales(self.layer_scaling == "variance"),)
        return (*super().support, *scales)


def build(options: MezoOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay))


RECIPE = Recipe(
    name="mezo",
    summary="two forwards along one Gaussian direction, plain SGD",
    source="arXiv 2305.17333, algorithm 1",
    # small and dense: lr and eps of the paper's tables 15 and 16, LoRA and full
    defaults=Defaults(
        activations=Length(lr=4e-3, eps=1e-2),
        factors=Length(lr=5e-4, eps=1e-2),
        small=Length(lr=1e-4, eps=1e-2),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="linear",
        steps=2000,
    ),
    options=MezoOptions,
    build=build,
)
