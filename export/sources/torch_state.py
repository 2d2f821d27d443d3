"""The tensors of a torch module under one name each: ties found, views instead of copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from zoedge.errors import InputError


def same_name(name: str) -> str:
    """Return ``name``: the rename of a module whose state dict has the names that we want."""
    return name


@dataclass(frozen=True)
class TorchState:
    """What a module holds, by the source's names.

    Attributes:
        tensors: canonical name -> tensor, in state-dict order.
        canonical: every state-dict name of the module (before renaming) -> canonical name.
        tied: canonical name -> other names of the same tensor.
        parameters: canonical names of the floating-point ``nn.Parameter``s.
        lookups: names, canonical or not, under which an ``nn.Embedding`` holds its rows.
    """

    tensors: dict[str, Tensor]
    canonical: dict[str, str]
    tied: dict[str, tuple[str, ...]]
    parameters: frozenset[str]
    lookups: frozenset[str] = frozenset()


def collect(
    module: nn.Module, rename: Callable[[str], str] = same_name, secondary: Iterable[str] = ()
) -> TorchState:
    """Read the state dict of ``module``.

    Args:
        module: its parameters and persistent buffers are collected.
        rename: state-dict name -> the source's name.
        secondary: source names that give way when a tensor has several (transformers' tied keys).

    Raises:
        InputError: two tensors get the same name.
    """
    groups: dict[object, list[str]] = {}
    found: dict[object, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(_identity(tensor), []).append(name)
        found[_identity(tensor)] = tensor
    giving_way = frozenset(secondary)
    tensors: dict[str, Tensor] = {}
    canonical: dict[str, str] = {}
    tied: dict[str, tuple[str, ...]] = {}
    for key, names in groups.items():
        own = sorted((rename(name) for name in names), key=lambda name: name in giving_way)  # stable
        if own[0] in tensors:
            raise InputError(f"two tensors of the model are called {own[0]}: rename one of them")
        tensors[own[0]] = found[key]
        canonical.update(dict.fromkeys(names, own[0]))
        if len(own) > 1:
            tied[own[0]] = tuple(own[1:])
    parameters = frozenset(
        name for name, t in tensors.items() if isinstance(t, nn.Parameter) and t.is_floating_point()
    )
    tables = (
        name for name, part in module.named_modules(remove_duplicate=False) if isinstance(part, nn.Embedding)
    )
    lookups = frozenset(rename(f"{name}.weight".removeprefix(".")) for name in tables)
    return TorchState(tensors, canonical, tied, parameters, lookups)


def free_name(wanted: str, state: TorchState) -> str:
    """Return what an output is called: as wanted, or otherwise where a tensor has that name."""
    return wanted if wanted not in state.tensors else free_name(f"{wanted}.output", state)


def _identity(tensor: Tensor) -> object:
    """Return a key that is equal for two names of one tensor; equal values are no reason."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return the tensor's memory as a C-contiguous array; only an oddly strided tensor is copied."""
    return np.asarray(tensor.detach().contiguous().numpy())
