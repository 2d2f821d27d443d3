"""Example inputs of a torch module as tensors, from whatever a user has at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


def as_tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return each input as a tensor on the CPU.

    Args:
        inputs: name -> tensor, array, number or nested list of numbers. Arrays and lists of float64, which is what
            NumPy and Python make unless told otherwise, become float32; tensors stay as they are.

    Raises:
        InputError: a value that is none of these.
    """
    return {name: _tensor(name, value) for name, value in inputs.items()}


def _tensor(name: str, value: Any) -> Tensor:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        array = np.array(value)  # a copy: torch wants memory that it may write to
    except ValueError:  # rows of unequal length
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"example_inputs has {type(value).__name__} as {name}, which is no array of numbers: give an array, a "
            "tensor or a nested list of numbers"
        )
    if array.size == 0:
        raise InputError(f"example_inputs has an empty array as {name}: give at least one row")
    # float64 and wider become float32; torch knows native byte order only
    wanted = np.dtype(np.float32) if array.dtype.kind == "f" and array.itemsize >= 8 else array.dtype
    array = array.astype(wanted.newbyteorder("="))
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise InputError(f"example_inputs has {array.dtype} as {name}, which torch doesn't know") from error


def check_call(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Call a module in eval mode, so that inputs which don't fit it are told in its own words.

    Raises:
        InputError: it raised.
    """
    import torch

    from .torch_reference import evaluating

    try:
        with torch.no_grad(), evaluating(module):
            module(**inputs)
    except Exception as error:  # a user's code may raise anything
        shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in inputs.items())
        raise InputError(
            f"{type(module).__name__} called with example_inputs ({shapes}) raised {type(error).__name__} "
            f"({' '.join(str(error).split())}): give inputs that it takes"
        ) from error
