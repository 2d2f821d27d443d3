"""MeZO: two-point estimates along a Gaussian direction (arXiv 2305.17333).

Algorithm 1; with more queries, n-SPSA at the learning rate that is given (the paper's code multiplies it with n).
Of its appendix B the layer-wise variants, by the size of weights or of gradients; the paper finds none to help
consistently. Gradients are looked at in steps of their own, a layer each, that count as the run's. The paper's medium
code divides the weights' size by the root of itself; here it is the root mean square.
"""

from typing import Annotated, Literal

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

    layer_norms: Annotated[
        Literal["weights", "gradients"],
        Setting("what --layer-scaling goes by; gradients take a step for each layer"),
    ] = "weights"
    layer_norms_every: Annotated[
        int | None,
        Setting("steps between looks at the gradients; once as the run begins by default", least=1),
    ] = None

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows and scales what a step moves."""
        if self.layer_scaling == "no":
            return super().support
        unbiased, gradients = self.layer_scaling == "variance", self.layer_norms == "gradients"
        return (*super().support, LayerScales(unbiased, gradients, self.layer_norms_every))


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
