"""How much memory a run takes, from the manifest alone: rough, and free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from zoedge.manifest import Manifest, Parameter
from zoedge.methods import Dense
from zoedge.options import TuneOptions

from ..device import Device
from ..passes.bounds import bounds_beside
from ..run.method import method_of
from ..start.activations import ROWS

_COPIES_OF_FROZEN = 1.3  # prepacked, and what folding leaves behind
_FLOAT_BYTES = {"float16": 2}  # by the precision of passes; 4 in others
_LIVE_ARRAYS = 6  # of the widest layer's size, at the worst moment of a pass


class Footprint(NamedTuple):
    """Bytes of anonymous memory beyond what a process has before it opens a bundle, and of a device's own.

    Attributes:
        trained: buffers, which become private when written, and masters and a rule's arrays beside them.
        copied: what sessions copy of the frozen matrices, unless prepacking is off; 0 where all frozen tensors lie
            on a device.
        passes: a forward pass.
        seen: the activations from which LoRA branches get their directions.
        frozen: all frozen tensors, where they lie on a device.
        elsewhere: whether ``trained``, ``frozen`` and ``passes`` are of a device's own memory.
    """

    trained: int
    copied: int
    passes: int
    seen: int
    frozen: int = 0
    elsewhere: bool = False

    @property
    def total(self) -> int:
        """What the process takes."""
        return self.copied + self.seen + (0 if self.elsewhere else self.trained + self.passes)

    @property
    def device(self) -> int:
        """What a device takes of its own memory."""
        return self.trained + self.frozen + self.passes if self.elsewhere else 0


def footprint(manifest: Manifest, options: TuneOptions, longest: int, device: Device) -> Footprint:
    """Return a rough figure.

    Args:
        manifest: the bundle's.
        options: decided ones.
        longest: tokens of the longest row; 0 where rows have none.
        device: what runs it.
    """
    method = method_of(options)
    arrays = len(method.rule.arrays) if method.directions.kind == Dense.kind else 0  # else as small as a core
    size = _FLOAT_BYTES.get(device.precision, 4)  # of a float in a pass
    masters = (0 if options.placement == "in-place" else 1) + arrays
    trained = sum(math.prod(p.shape) for p in manifest.trainable) * (size + 4 * masters)
    matrices = [p for p in manifest.parameters if len(p.shape) >= 2 and p.group != "embedding"]
    passes = _pass_bytes(manifest, options, matrices, longest) * size // 4
    seen = _seen_bytes(manifest, options, longest)
    if device.own_memory:
        frozen = tensor_bytes((p for p in manifest.parameters if not p.trainable), size)
        return Footprint(trained, 0, passes, seen, frozen, elsewhere=True)
    frozen = tensor_bytes(p for p in matrices if not p.trainable)
    copied = 0 if options.prepack == "no" else int(_COPIES_OF_FROZEN * frozen)
    return Footprint(trained, copied, passes, seen)


def _pass_bytes(manifest: Manifest, options: TuneOptions, matrices: list[Parameter], longest: int) -> int:
    step_rows = min(options.batch_size, options.micro_batch_size or options.batch_size)
    bounds = bounds_beside(step_rows, step_rows * longest if longest else None, options.micro_batch_size)
    rows = max(step_rows, min(bounds.rows, bounds.tokens // longest if longest else bounds.rows))
    if longest:
        widest = max((max(p.shape) for p in matrices), default=1)
        scores = longest * longest  # of one attention head
        return 4 * rows * (_LIVE_ARRAYS * longest * widest + 2 * 12 * scores)
    inputs = sum(math.prod(d for d in port.shape[1:] if isinstance(d, int)) for port in manifest.inputs)
    widest = max((max(p.shape) for p in matrices), default=1)
    return 4 * rows * _LIVE_ARRAYS * max(widest, 16 * inputs)  # 16: channels of a picture's first layers


def _seen_bytes(manifest: Manifest, options: TuneOptions, longest: int) -> int:
    """Return what branches' inputs and outputs take for the rows looked at, all as long as the longest."""
    if options.lora_space != "activations":
        return 0
    widths = sum(sum(branch.shape) for branch in manifest.branches)
    return 4 * ROWS * max(longest, 1) * widths


def tensor_bytes(parameters: Iterable[Parameter], float_size: int = 4) -> int:
    """Return the bytes of some tensors, those of float32 with as many an element as passes read."""
    return sum(
        math.prod(p.shape) * (float_size if p.dtype == "float32" else np.dtype(_known(p.dtype)).itemsize)
        for p in parameters
    )


def _known(dtype: str) -> str:
    try:
        np.dtype(dtype)
    except TypeError:
        return "uint16"  # bfloat16, which NumPy lacks
    return dtype
