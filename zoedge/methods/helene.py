"""HELENE: momentum over a diagonal curvature that is clipped from below, layer by layer (arXiv 2411.10696).

With e = mean_k(g_k z_k), d the elements of a tensor, and t the steps that were taken:

    alpha = b1 + (1 - b1) exp(-t / T)
    m     <- b1 m + alpha e
    h     <- b2 h + (1 - b2) e * e                              every k-th step, the first one included
    theta <- theta - lr m / (gamma max(h, lambda d) + tiny)

The paper's estimate of the curvature is that of A-GNB, batch size * e * e; the batch size is a factor of gamma and
1 / lambda, and is left to them. Its floor is layer-wise, in proportion to the dimension. No values are published that
would suit all tasks, nor is there code. With lambda 1 a step is lr / d of what it is for momentum, or less where the
curvature is above the dimension, so that one learning rate suits tensors of all sizes.
"""

from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .curvature import ClippedCurvature
from .options import Options
from .two_point import two_point


class HeleneOptions(Options, frozen=True):
    """Those of ``Options``, and what is made of the estimates."""

    beta1: Annotated[float, Setting("share of the first moment that stays", least=0, below=1)] = 0.9
    beta2: Annotated[float, Setting("share of the second moment that stays", least=0, below=1)] = 0.99
    anneal: Annotated[
        float, Setting("steps in which the weight of a new estimate falls from 1 towards beta1 (T)", above=0)
    ] = 1000.0
    curvature_every: Annotated[int, Setting("steps between looks at the curvature (k)", least=1)] = 10
    curvature_scale: Annotated[float, Setting("what the curvature is multiplied with (gamma)", above=0)] = 1.0
    curvature_floor: Annotated[
        float, Setting("least curvature, times the elements of a tensor (lambda)", above=0)
    ] = 1.0


def build(options: HeleneOptions) -> Method:
    """Return the method."""
    rule = ClippedCurvature(
        options.beta1,
        options.beta2,
        options.anneal,
        options.curvature_every,
        options.curvature_scale,
        options.curvature_floor,
        options.weight_decay,
    )
    return two_point(options, rule)


RECIPE = Recipe(
    name="helene",
    summary="mezo with annealed momentum over a clipped diagonal curvature: three arrays as large as what is tuned",
    source="arXiv 2411.10696, algorithm 1",
    defaults=Defaults(
        activations=Length(lr=3e-2, eps=1e-2),
        factors=Length(lr=3e-2, eps=1e-2),
        small=Length(lr=1e-2, eps=1e-2),
        dense=Length(lr=1e-3, eps=1e-3),  # not tried: biases take far longer steps than matrices
        schedule="linear",
        steps=2000,
    ),
    options=HeleneOptions,
    build=build,
)
