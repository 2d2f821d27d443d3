"""Tensor-train adapters on the device: W + Up Down where nothing lies between the maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import TensorTrainBranch
from zoedge.manifest import Branch

from .base import Adapter, Tensors

Float64 = NDArray[np.float64]


class TensorTrain(Adapter):
    """An ``Adapter``."""

    def added(self, branch: Branch, factors: Tensors, base: Float64, rows: slice, columns: slice) -> Float64:
        """Return W + Up Down; only where there is no activation."""
        train = TensorTrainBranch.of(branch)
        down, up = (multiplied(train, side, factors) for side in ("down", "up"))
        return base + (down[columns] @ up[:, rows]).T

    def scalable(self, branch: Branch) -> bool:
        """Return whether one core has all of what the matrix makes, and nothing reads that."""
        train = TensorTrainBranch.of(branch)
        return not train.relu and train.up.sizes[-1] == branch.shape[0]

    def times(self, branch: Branch, factors: Tensors, factor: Float64) -> dict[str, NDArray[np.float32]]:
        """Return the last core with its columns multiplied."""
        last = TensorTrainBranch.of(branch).cores("up")[-1]
        return {last: (factors[last].astype(np.float64) * factor).astype(np.float32)}


def multiplied(train: TensorTrainBranch, side: str, factors: Tensors) -> Float64:
    """Return a whole map [rows, columns] in float64."""
    cores = train.maps[side]
    product = np.ones((1, 1))
    for name, size, right in zip(train.cores(side), cores.sizes, cores.ranks[1:], strict=True):
        core = factors[name].astype(np.float64).reshape(-1, size * right)
        product = (product @ core).reshape(-1, right)
    return product.reshape(cores.rows, cores.columns)


ADAPTER: Adapter = TensorTrain()
