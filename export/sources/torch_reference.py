"""The source's own answers: the torch module run on NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoedge.names import FEATURES, in_graph

from .torch_graph import LOGITS, pick

if TYPE_CHECKING:
    from zoedge.export.exported import Arrays, Reference


def reference_of(
    module: nn.Module, output: str = LOGITS, head: str | None = None, *, called: str = ""
) -> Reference:
    """Return a function from model inputs to the module's own outputs, in eval mode without gradients.

    Args:
        module: the torch model, kept alive by the function.
        output: which output.
        called: its name in what is returned; "" for the same.
        head: name of a fresh head's linear layer: what it reads is returned as "zoedge/features" too, since the
            logits of a head of zeros say nothing.
    """

    def reference(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
        with torch.no_grad(), evaluating(module), _seen_by(module, head) as seen:
            result = {called or output: pick(module(**tensors), output)}
        return {name: value.numpy() for name, value in (result | seen).items()}

    return reference


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every part of a module into eval mode, and back into its own afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _seen_by(module: nn.Module, head: str | None) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    if head is None:
        yield seen
        return
    layer = module.get_submodule(head)
    hook = layer.register_forward_pre_hook(lambda _, args: seen.update({in_graph(FEATURES): args[0]}))
    try:
        yield seen
    finally:
        hook.remove()
