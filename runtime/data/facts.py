"""What a run found out about its data when it began; saved with it, so that it goes on alike."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Float64 = NDArray[np.float64]

_SHOWN = 3  # outputs in a sentence


class TargetScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The training targets' mean and standard deviation, per output, where they are far from the usual size.

    ``outputs`` tells what they do. True: the graph is tuned on (target - mean) / std, and the weights that the
    run saves have mean and std folded into the head. False: the model gives the targets' own units already, so
    targets stay and the loss alone is divided by their variance.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: bool

    def __str__(self) -> str:
        if self.outputs:
            return (
                f"targets have {self.moments}: the loss is taken on (target - mean) / deviation; what is saved and the "
                "other metrics are in the targets' own units (--scale-targets no: as they are)"
            )
        return (
            f"targets have {self.moments}, and the model gives their units: the loss is divided by their variance and "
            "predictions stay as they are (--scale-targets no: as it is)"
        )

    @property
    def moments(self) -> str:
        """The means and deviations of the first outputs, in words."""
        pairs = list(zip(self.mean, self.std, strict=True))
        shown = [f"{mean:.4g} and standard deviation {std:.4g}" for mean, std in pairs[:_SHOWN]]
        more = f" (and {len(pairs) - _SHOWN} more outputs)" if len(pairs) > _SHOWN else ""
        return f"mean {'; '.join(shown)}{more}"

    @property
    def loss_factor(self) -> float:
        """What the graph's loss is multiplied with."""
        return 1.0 if self.outputs else 1.0 / math.fsum(s * s / len(self.std) for s in self.std)

    def standardised(self, targets: Array) -> NDArray[np.float32]:
        """Return targets [...] in the graph's units, float32."""
        return ((self._flat(targets) - self.mean) / self.std).reshape(targets.shape).astype(np.float32)

    def restored(self, values: Array) -> Float64:
        """Return the graph's outputs or targets [...] in the user's units, float64."""
        flat = self._flat(values)
        return (flat * self.std + self.mean if self.outputs else flat).reshape(values.shape)

    def _flat(self, values: Array) -> Float64:
        return values.astype(np.float64).reshape(-1, len(self.mean))


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts of a run's data; the defaults are what runs did that know none.

    Attributes:
        columns: which column of a table is which element of the graph's input, in order; () where inputs are
            arrays or have names of their own.
        header: the columns of the training file in their order, the target and unused ones among them; () where it
            names none, or inputs aren't made of columns.
        target: how an unscaled regression target is taken; None where it is of the usual size.
        stratified: whether held-out rows were drawn class by class.
        validation_rows: how many rows evaluations are over; 0 without.
        crossfit_rows: how many training rows a head that is solved in a run's place of validation was judged on,
            each by a head that had not seen it; 0 where validation rows judge, or nothing does.
        objective_folder: where the module of an objective of the user's own was found; "" where there is none, or it
            is installed.
        shape: which fields the rows of a model of text have (``tasks.plain.asked_shape``).
    """

    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    target: TargetScale | None = None
    stratified: bool = False
    validation_rows: int = 0
    crossfit_rows: int = 0
    objective_folder: str = ""
    shape: str = ""
