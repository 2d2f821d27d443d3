"""LeZO: MeZO on some of the layers, drawn anew each step (arXiv 2410.09823).

A step draws (1 - rho) N of the N layers from the run's seed and its own number, and both its probes and its update
leave the others alone; what lies outside any numbered layer (embeddings, a head) moves at every step. The paper drops
three layers of four on its large models.

What is saved is the noise and the memory traffic of the layers that stay. Of a forward pass nothing is: the part of
the graph that is computed once for all points of a step, and kept on disk across epochs, is the one that no *trained*
tensor reaches. It is cut at export, so a draw of late layers alone doesn't make it longer. Training late layers alone
does (--target-modules at export), and goes together with this method.
"""

from typing import Annotated

from .core import Defaults, Length, Method, Recipe
from .options import LAYERS, DenseOptions
from .rules import Sgd
from .support import Layers, Support
from .two_point import two_point


class LezoOptions(DenseOptions, frozen=True):
    """Those of ``DenseOptions``; a share of one is mezo."""

    active_layers: Annotated[float, LAYERS] = 0.25

    @property
    def layers(self) -> tuple[Support, ...]:
        """The share of the layers that a step moves."""
        return (Layers(self.active_layers, "use --method mezo"),) if self.active_layers < 1.0 else ()


def build(options: LezoOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay))


RECIPE = Recipe(
    name="lezo",
    summary="mezo on a quarter of the layers, drawn anew each step",
    source="arXiv 2410.09823, algorithm 1; a quarter as for its OPT-13B",
    # fewer elements see less of each other's noise: steps of mezo's length may be longer in each
    defaults=Defaults(
        activations=Length(lr=1e-2, eps=1e-2),
        factors=Length(lr=1.5e-3, eps=1e-2),
        small=Length(lr=3e-4, eps=1e-2),
        dense=Length(lr=3e-6, eps=1e-3),
        schedule="linear",
        steps=2000,
    ),
    options=LezoOptions,
    build=build,
)
