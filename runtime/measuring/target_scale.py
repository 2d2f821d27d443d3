"""Regression targets far from the usual size: noticed, and taken on a scale on which steps work.

A step of a few thousandths never moves an output from 0 to 250,000, and a loss of 10^10 makes a gradient to
match. Where the model's outputs are near standardised targets, or its head is new, it is tuned on those, and
mean and deviation are folded into the weights of the head, which is exact. Where the outputs have the targets'
own units, the outputs stay as they are and the loss alone is divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import LOSS_FILE, Head, Manifest
from zoedge.options import TuneOptions

from ..adapters.base import adapter_of
from ..data.batches import MicroBatch, Result
from ..data.dataset import Dataset
from ..data.example import Array
from ..data.facts import TargetScale
from ..device import Device
from ..losses.objectives import Objective
from ..machine.threads import threads_for
from ..passes.bounds import bounds_beside
from ..passes.engine import Engine
from ..passes.frozen import frozen_where
from ..spaces.parameters import load_buffers
from .measure import run_rows

_USUAL = 10.0  # means and deviations up to this need no scale
_SMALL = 0.01  # and deviations from this
_ROUNDING = 2.0**-24  # of float32
_TOLD = 0.001  # of a deviation: what rounding may hide
_MEASURED_ROWS = 256
_VARIES = 0.1  # outputs in the targets' units vary at least this much as targets do
_CLEARLY = 100.0

Float64 = NDArray[np.float64]


def target_scale(
    bundle: Bundle, device: Device, data: str, train: Dataset, options: TuneOptions
) -> TargetScale | None:
    """Return how targets are to be taken, None where they are of the usual size or nothing is to be scaled.

    Args:
        bundle: what is tuned.
        device: what runs it.
        data: what the user calls the data, for errors.
        train: the training rows, with targets as the file has them.
        options: the run's.

    Raises:
        InputError: the model's outputs are far from the targets and there is no head to fold the scale into, or
            float32 can't tell targets apart.
    """
    if bundle.manifest.loss != "mse" or options.scale_targets == "no":
        return None
    head = foldable_head(bundle.manifest)
    mean, std = _moments(train, pooled=head is None)
    if (np.abs(mean) <= _USUAL).all() and ((std <= _USUAL) & ((std >= _SMALL) | (std == 0.0))).all():
        return None
    hidden = np.where(std > 0.0, np.abs(mean) * _ROUNDING - _TOLD * std, 0.0)
    if hidden.max() > 0.0:
        worst = int(hidden.argmax())
        raise InputError(
            f"targets of {data} differ by about {std[worst]:.4g} around {mean[worst]:.10g}, which float32 can't tell "
            f"well: subtract a number near that from them"
        )
    scale = TargetScale(
        mean=tuple(mean.tolist()), std=tuple(np.where(std > 0.0, std, 1.0).tolist()), outputs=True
    )
    if head is not None and head.fresh:
        return scale
    seen = _outputs(bundle, device, train, scale, options)
    if seen.has_units:
        return TargetScale(mean=scale.mean, std=scale.std, outputs=False)
    if head is None:
        raise InputError(_refusal(bundle.manifest, data, scale, seen))
    return scale


def foldable_head(manifest: Manifest) -> Head | None:
    """Return the head whose weights can take in a scale and an offset: tuned, with a bias, and nobody else's."""
    head = manifest.head
    if head is None or head.bias is None or len(manifest.targets[0].shape) > 2:
        return None
    if not all(adapter_of(b).scalable(b) for b in manifest.branches if b.weight == head.weight):
        return None
    alone = {p.name for p in manifest.trainable if not p.tied_to}
    return head if {head.weight, head.bias} <= alone else None


def with_scale(
    tensors: dict[str, NDArray[np.float32]], scale: TargetScale | None, manifest: Manifest
) -> dict[str, NDArray[np.float32]]:
    """Return tuned tensors for outputs in the user's units: the head and its branch times std, its bias plus mean."""
    head = foldable_head(manifest)
    if scale is None or not scale.outputs or head is None or head.bias is None:
        return tensors
    std, mean = np.array(scale.std), np.array(scale.mean)
    weight = tensors[head.weight].astype(np.float64) * (std if head.transposed else std[:, None])
    bias = tensors[head.bias].astype(np.float64) * std + mean
    learnt: dict[str, NDArray[np.float32]] = {}
    for branch in manifest.branches:
        if branch.weight == head.weight:
            learnt |= adapter_of(branch).times(branch, tensors, std)
    return tensors | learnt | {head.weight: weight.astype(np.float32), head.bias: bias.astype(np.float32)}


class InUnits:
    """An objective that sees outputs and targets in the user's units, and the loss scaled."""

    def __init__(self, objective: Objective, scale: TargetScale) -> None:
        self._objective, self._scale = objective, scale
        self.outputs, self.maximised = objective.outputs, objective.maximised

    def __call__(self, results: Sequence[Result]) -> float:
        """Return the objective's number."""
        return self._objective([self._restored(batch, outputs) for batch, outputs in results])

    def _restored(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> Result:
        scaled = dict(outputs)
        if "loss" in scaled:
            scaled["loss"] = scaled["loss"].astype(np.float64) * self._scale.loss_factor
        if "logits" in scaled:
            scaled["logits"] = self._scale.restored(scaled["logits"]).astype(np.float32)
        targets = {name: self._scale.restored(t).astype(np.float32) for name, t in batch.targets.items()}
        return MicroBatch(batch.inputs, targets, batch.rows), scaled


def _moments(train: Dataset, *, pooled: bool) -> tuple[Float64, Float64]:
    """Return mean and standard deviation of the targets, [outputs], or of all elements together, [1]."""
    count, mean, square = 0, np.zeros(1), np.zeros(1)
    for example in train.examples:
        (target,) = example.targets.values()
        rows = target.astype(np.float64).reshape((-1, 1) if pooled else (1, -1))
        own, total = rows.mean(axis=0), count + len(rows)
        gap = own - mean
        square = square + np.square(rows - own).sum(axis=0) + gap**2 * (count * len(rows) / total)
        mean, count = mean + gap * (len(rows) / total), total
    return mean, np.sqrt(square / count)


@dataclass(frozen=True)
class _Seen:
    """What the exported model gives for some training rows."""

    mean: float
    std: float
    has_units: bool


def _outputs(
    bundle: Bundle, device: Device, train: Dataset, scale: TargetScale, options: TuneOptions
) -> _Seen:
    """Run some rows and compare the outputs with the targets, as they are and standardised."""
    threads = threads_for(bundle.manifest, options.threads)
    frozen = frozen_where(bundle, device, "auto")  # a few passes on the processor are worth its copies
    engine = Engine(
        bundle.path(LOSS_FILE), load_buffers(bundle, device), device=device, threads=threads, frozen=frozen
    )
    rows = np.arange(min(len(train), _MEASURED_ROWS))
    bounds = bounds_beside(options.batch_size, None, options.micro_batch_size)
    pairs = [
        (outputs["logits"][: batch.valid], target[: batch.valid])
        for batch, outputs in run_rows(
            engine, bundle.manifest, train.examples, rows, ("logits",), bounds=bounds
        )
        for target in batch.targets.values()
    ]
    width = len(scale.mean)
    out = np.concatenate([o.astype(np.float64).reshape(-1, width) for o, _ in pairs])
    known = np.concatenate([t.astype(np.float64).reshape(-1, width) for _, t in pairs])
    own = float(np.square((out - known) / scale.std).mean())
    standard = float(np.square(out - (known - scale.mean) / scale.std).mean())
    varies = float(np.sqrt(np.square((out - out.mean(axis=0)) / scale.std).mean()))
    has_units = own <= standard and (varies >= _VARIES or standard > _CLEARLY * own)
    return _Seen(float(out.mean()), float(out.std()), has_units)


def _refusal(manifest: Manifest, data: str, scale: TargetScale, seen: _Seen) -> str:
    remedies = []
    if _head_could_fold(manifest):
        remedies.append(
            "export with --train head added to the others, as the head's weights can take the scale in"
        )
    if abs(seen.mean) <= _USUAL and seen.std <= _USUAL:  # else outputs are as far from scaled targets
        remedies.append(f"scale the targets to (target - {scale.mean[0]:.4g}) / {scale.std[0]:.4g}")
    return (
        f"the targets of {data} have {scale.moments}, and the model gives mean {seen.mean:.4g} and standard "
        f"deviation {seen.std:.4g}, from which what is trained doesn't get there: "
        f"{', or '.join(remedies) or 'scale the targets to what the model gives'}"
    )


def _head_could_fold(manifest: Manifest) -> bool:
    """Tell whether an export that trains the head, too, would have a place for the scale."""
    head = manifest.head
    if head is None or head.bias is None:
        return False
    fitting = [p.name for p in manifest.parameters if p.dtype == "float32" and not p.tied_to]
    trained = tuple(
        structs.replace(
            p, trainable=p.trainable or (p.name in fitting and p.name in (head.weight, head.bias))
        )
        for p in manifest.parameters
    )
    return foldable_head(structs.replace(manifest, parameters=trained)) is not None
