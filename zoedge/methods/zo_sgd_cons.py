"""ZO-SGD-Cons: a step is made only where it is seen to help (ZO-Bench, arXiv 2402.11592).

After a two-point estimate g, the losses at theta, theta - lr g z and theta + lr g z are taken on the same rows, and
the lowest of the three is where the next step begins. With several queries, g z is their mean. The paper's code
measures theta first; here all three come after the estimate, in one round, which changes nothing. A loss that isn't
finite, also where a step would lead, skips the step. Weight decay would go where no loss was seen, so there is none.
"""

from .core import Defaults, Length, Method, Recipe
from .decisions import Lowest
from .directions import Dense
from .estimators import TwoPoint
from .options import Draws
from .rules import Sgd


def build(options: Draws) -> Method:
    """Return the method."""
    return Method(
        Dense(options.directions),
        TwoPoint(options.queries),
        Sgd(),
        support=options.support,
        decision=Lowest(),
    )


RECIPE = Recipe(
    name="zo-sgd-cons",
    summary="mezo that looks at both sides before a step, and stays where the loss is lowest",
    source="ZO-Bench, arXiv 2402.11592",
    defaults=Defaults(
        activations=Length(lr=4e-3, eps=1e-2),
        factors=Length(lr=5e-4, eps=1e-2),
        small=Length(lr=1e-4, eps=1e-2),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="linear",
        steps=1000,
    ),
    options=Draws,
    build=build,
)
