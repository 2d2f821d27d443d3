"""Which layers a step moves, where it moves only some (LeZO, arXiv 2410.09823)."""

from __future__ import annotations

from collections.abc import Iterable

from zoedge.errors import InputError

from ..noise.permutation import permutation


def layer_of(name: str) -> str | None:
    """Return a parameter's layer: its name up to the first number; None where there is no number.

    >>> layer_of("model.decoder.layers.3.fc1.weight")
    'model.decoder.layers.3'
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else None


class ActiveLayers:
    """A share of the layers, drawn anew for each step: a pure function of seed and step.

    Args:
        names: the parameters that directions move; those outside any layer move at every step.
        share: above 0, at most 1; at least one layer moves.
        seed: the run's.

    Raises:
        InputError: no parameter belongs to a layer.
    """

    def __init__(self, names: Iterable[str], share: float, seed: int) -> None:
        self._layers = sorted({layer for name in names if (layer := layer_of(name)) is not None})
        if not self._layers:
            raise InputError(
                f"--active-layers {share:g} needs parameters of numbered layers, and none is tuned: leave it out"
            )
        self._count = max(1, round(share * len(self._layers)))
        self._seed = seed

    def at(self, step: int) -> frozenset[str | None]:
        """Return what ``layer_of`` says of the parameters that a step moves."""
        order = permutation(self._seed, "zoedge.layers", step, len(self._layers))
        return frozenset([None, *(self._layers[i] for i in order[: self._count])])
