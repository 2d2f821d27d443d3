"""torch on the same hardware: MeZO as published, on all parameters or on LoRA branches beside q and v.

Weights are random, dropout is off. Logits are computed at every position, as transformers' models do unless told
otherwise, and the loss at the labels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import OPTForCausalLM
from variants.models import MODELS
from variants.shapes import load_batch

from gpu.clock import Clock, CudaClock, HostClock
from gpu.variant import Place, Variant

RANK, ALPHA = 8, 16
BRANCHES = ("q_proj", "v_proj")


class Branch(nn.Module):
    """A frozen linear layer and, beside it, ``x @ a.T @ b.T * alpha / rank``: peft's LoRA without its checks.

    Args:
        base: the layer.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        kind = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.a = nn.Parameter(torch.randn(RANK, base.in_features, **kind) * 0.02)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK, **kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the branch's added."""
        return self.base(x) + linear(linear(x, self.a), self.b) * (ALPHA / RANK)


class TorchMezo(Variant):
    """Four walks through the parameters: to +eps, to -eps, back, and the update, each drawing its noise anew.

    Args:
        model: its name.
        dtype: torch's name of what weights and activations are.
        branches: "" for all parameters; "hand" for LoRA as above, "peft" for that package's.
    """

    passes = "2 forwards"
    eps, lr = 1e-3, 1e-9

    def __init__(self, place: Place, model: str, dtype: str = "float32", branches: str = "") -> None:
        super().__init__(place)
        if branches == "peft":
            import peft  # before the clock runs

            self._peft = peft
        self._config, self._dtype, self._branches = MODELS[model](), getattr(torch, dtype), branches
        self._device = torch.device(place.provider)
        self._arrays = load_batch(place.data)
        self._count = 0

    @cached_property
    def clock(self) -> Clock:
        """What tells its time and memory: torch works on the stream that all others wait for."""
        if self.place.provider == "cpu":
            return HostClock()
        import cupy

        return CudaClock(cupy.cuda.Stream.null)

    def build(self) -> None:
        torch.manual_seed(0)
        with self._device:
            model: Any = OPTForCausalLM(self._config)
        model = model.to(self._dtype)
        model.config.use_cache = False
        model.requires_grad_(not self._branches)
        if self._branches == "peft":
            config = self._peft.LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=list(BRANCHES), task_type="CAUSAL_LM"
            )
            model = self._peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        elif self._branches:
            _branch(model)
        self._model = model.eval()
        self._ids, self._labels = (torch.from_numpy(a).to(self._device) for a in self._arrays)
        self._mask = torch.ones_like(self._ids)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self.notes.append(f"{len(self._trained)} tensors, torch {torch.__version__}")
        self.parts = {"step": self._step, "passes": self._two_forwards}
        for _ in range(3):
            self._step()

    @torch.no_grad()
    def _forward(self) -> torch.Tensor:
        logits = self._model(input_ids=self._ids, attention_mask=self._mask).logits
        wanted = logits[:, -self._labels.shape[1] :].flatten(0, 1).float()
        return cross_entropy(wanted, self._labels.flatten())

    def loss(self) -> float:
        """Return the loss: of random weights, other ones than the bundle's."""
        return self._forward().item()

    def _two_forwards(self) -> None:
        for _ in range(2):
            self._forward().item()

    @torch.no_grad()
    def _step(self) -> None:
        self._count += 1
        self._move(self.eps)
        plus = self._forward().item()
        self._move(-2 * self.eps)
        minus = self._forward().item()
        self._move(self.eps)
        self._move(-self.lr * (plus - minus) / (2 * self.eps))

    def _move(self, scale: float) -> None:
        torch.manual_seed(self._count)
        for p in self._trained:
            z = torch.normal(mean=0, std=1, size=p.data.size(), device=p.data.device, dtype=p.data.dtype)
            p.data = p.data + scale * z


def _branch(model: nn.Module) -> None:
    """Put branches beside the layers that have them."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if name in BRANCHES and isinstance(layer, nn.Linear):
                setattr(parent, name, Branch(layer))
