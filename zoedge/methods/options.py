"""The settings that many methods have: each method composes its own class of these and of what it alone has."""

from __future__ import annotations

from typing import Annotated, Literal

from ..settings import Setting
from .core import MethodOptions
from .support import Layers, Stretches, Support

Distribution = Literal["gaussian", "rademacher"]

QUERIES = Setting(
    "directions per step", least=1, short="-q", also=("num_queries", "n_samples", "q", "num_samples", "zo_q")
)
DISTRIBUTION = Setting("distribution of the directions: gaussian or rademacher (signs: cheaper to draw)")
LAYERS = Setting("share of the layers that a step moves (LeZO); all by default", above=0, most=1)


class Draws(MethodOptions, frozen=True):
    """Of a method that draws random directions."""

    queries: Annotated[int, QUERIES] = 1
    directions: Annotated[Distribution, DISTRIBUTION] = "gaussian"
    active_layers: Annotated[float | None, LAYERS] = None

    @property
    def layers(self) -> tuple[Support, ...]:
        """The share of the layers that a step moves, where it isn't all of them."""
        share = self.active_layers
        return () if share is None or share == 1.0 else (Layers(share),)

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows the elements that a step moves."""
        return self.layers


class Options(Draws, frozen=True):
    """The same of one that steps along them."""

    weight_decay: Annotated[float, Setting("decoupled weight decay, not on biases and norms", least=0)] = 0.0


class DenseOptions(Options, frozen=True):
    """The same where each element has a direction of its own, so that some may be left out."""

    active_elements: Annotated[
        float,
        Setting(
            "share of the elements that a step moves, in stretches of 1,024; cheaper where the model is large",
            above=0,
            most=1,
        ),
    ] = 1.0

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows the elements that a step moves."""
        stretches = (Stretches(self.active_elements),) if self.active_elements < 1.0 else ()
        return (*super().support, *stretches)
