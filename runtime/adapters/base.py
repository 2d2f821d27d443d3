"""What a kind of adapter tells the device: how it is merged into its matrix, and which formats can hold it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import ADAPTERS
from zoedge.manifest import Branch

Tensors = Mapping[str, NDArray[np.generic]]


class Adapter:
    """A kind of adapter, as the ``ADAPTER`` of its module.

    Where branches can't be added to their matrices (``Branch.apart``), merging keeps them as the graph has them.
    """

    def added(
        self, branch: Branch, factors: Tensors, base: NDArray[np.float64], rows: slice, columns: slice
    ) -> NDArray[np.float64]:
        """Return what a block of the matrix becomes.

        Args:
            branch: of this kind.
            factors: the values of its tensors, by their names.
            base: float64, the block of the frozen matrix [out, in].
            rows, columns: where the block is in it.
        """
        raise NotImplementedError

    def scalable(self, branch: Branch) -> bool:
        """Return whether ``times`` can do what it says."""
        return True

    def times(
        self, branch: Branch, factors: Tensors, factor: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the tensors to change so that what the branch adds is multiplied by a factor [out]."""
        raise NotImplementedError

    def peft_tensors(self, branch: Branch, factors: Tensors) -> Tensors:
        """Return PEFT's tensors of a branch, by their names behind the module's."""
        raise NotImplementedError

    def peft_whole(self, branches: Sequence[Branch], factors: Tensors) -> Tensors | None:
        """Return PEFT's tensors of all branches of a bundle, by their names; None where it has some for each."""
        return None

    def peft_config(self, branches: Sequence[Branch]) -> dict[str, Any] | None:
        """Return what PEFT's configuration says of these branches; None where PEFT has no such adapter."""
        return None


def adapter_of(branch: Branch) -> Adapter:
    """Return what a branch's kind tells the device."""
    found: Adapter = importlib.import_module(ADAPTERS[branch.kind].runtime).ADAPTER
    return found
