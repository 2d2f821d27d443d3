"""torch: MeZO as its authors published it, and AdamW, on all parameters or on peft's LoRA.

Dropout is off everywhere, as MeZO has it. Logits are computed at every position, as transformers' models do
unless told otherwise, and the loss at the labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from variants.shapes import load_batch

RANK, ALPHA = 8, 16


class _Torch:
    def __init__(self, folder: Path, data: Path, *, lora: bool) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
        self._model.config.use_cache = False
        if lora:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
            self._model = get_peft_model(self._model, config)
        self._model.eval()
        ids, labels = load_batch(data)
        self._ids, self._labels = torch.from_numpy(ids), torch.from_numpy(labels)
        self._mask = torch.ones_like(self._ids)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]

    def _forward(self) -> torch.Tensor:
        logits = self._model(input_ids=self._ids, attention_mask=self._mask).logits
        return cross_entropy(logits[:, -self._labels.shape[1] :].flatten(0, 1), self._labels.flatten())

    def loss(self) -> float:
        """Return the loss at the present weights."""
        with torch.no_grad():
            return self._forward().item()


class TorchMezo(_Torch):
    """Four walks through the parameters: to +eps, to -eps, back, and the update."""

    passes = "2 forwards"
    eps, lr = 1e-3, 1e-6

    def __init__(self, folder: Path, data: Path, *, lora: bool = False) -> None:
        super().__init__(folder, data, lora=lora)
        self._step = 0

    @torch.no_grad()
    def step(self) -> None:
        self._step += 1
        self._move(self.eps)
        plus = self._forward().item()
        self._move(-2 * self.eps)
        minus = self._forward().item()
        self._move(self.eps)
        self._move(-self.lr * (plus - minus) / (2 * self.eps))

    def _move(self, scale: float) -> None:
        torch.manual_seed(self._step)
        for p in self._trained:
            p.data = p.data + scale * torch.normal(mean=0, std=1, size=p.data.size(), dtype=p.data.dtype)


class TorchAdamW(_Torch):
    """Forward, backward, step."""

    passes = "forward, backward"

    def __init__(self, folder: Path, data: Path, *, lora: bool = False) -> None:
        super().__init__(folder, data, lora=lora)
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-6)

    def step(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._forward().backward()
        self._optimizer.step()
