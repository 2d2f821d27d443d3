"""What a run consists of: a header, and the records that follow it. ``run/journal.py`` is how they are written."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all records of a run have in common; with the bundle it fixes what they mean."""

    bundle: str  # Bundle.digest
    data: str  # digest of the encoded training examples
    valid: str | None = None  # of the validation examples, which decide what is best; "" where there are none
    seed: int
    noise: int  # NOISE_VERSION
    options: dict[str, Any]  # resolved, as in config.yaml
    solved: tuple[str, ...] = ()  # tensors that are assigned instead of moved
    form: str | None = None  # of the whole graph (``zoedge/forms.py``); None in older runs
    zoedge: str
    versions: dict[str, str] = {}


class Step(NamedTuple):
    """One step: the learning rate it chose and what each point that it asked for answered, in order.

    An answer is a loss, or whatever the method's estimator makes a directional derivative of.
    """

    step: int
    lr: float  # exactly representable as float32
    answers: tuple[float, ...]


class Assign(NamedTuple):
    """Values given to tensors after ``step`` steps, by slot (cross-fitted versions) and name."""

    step: int
    slots: dict[int, dict[str, NDArray[np.float32]]]
    metrics: dict[str, float] | None = None  # of a refitted head, on rows that it had not seen


class Eval(NamedTuple):
    """Metrics on the validation rows after ``step`` steps."""

    step: int
    metrics: dict[str, float]


Record = Step | Assign | Eval
