"""Kinds of adapters: what is trained beside frozen weights, and how the two sides call the modules that know it."""

from __future__ import annotations

from typing import NamedTuple

from .base import AdapterOptions
from .lora import LORA, LoraBranch, LoraOptions, lora_branches
from .prefix import PREFIX, PrefixBranch, PrefixOptions
from .prompt import PROMPT, PromptBranch, PromptOptions
from .tensor_train import TENSOR_TRAIN, TensorTrainBranch, TensorTrainOptions

__all__ = [
    "ADAPTERS",
    "LORA",
    "PREFIX",
    "PROMPT",
    "TENSOR_TRAIN",
    "AdapterModules",
    "AdapterOptions",
    "LoraBranch",
    "LoraOptions",
    "PrefixBranch",
    "PrefixOptions",
    "PromptBranch",
    "PromptOptions",
    "TensorTrainBranch",
    "TensorTrainOptions",
    "lora_branches",
]


class AdapterModules(NamedTuple):
    """Where a kind of adapter is known.

    Attributes:
        label: what people call it.
        export: the module whose ``SURGERY`` puts it into graphs (``export.adapters.base.Surgery``).
        runtime: the module whose ``ADAPTER`` merges and writes it (``runtime.adapters.base.Adapter``).
        options: the class of its own settings, from which its flags derive.
    """

    label: str
    export: str
    runtime: str
    options: type[AdapterOptions] = AdapterOptions


def _kind(label: str, module: str, options: type[AdapterOptions]) -> AdapterModules:
    return AdapterModules(
        label, f"zoedge.export.adapters.{module}", f"zoedge.runtime.adapters.{module}", options
    )


# a new kind is one file on each side, its settings here, and one line; its name is an entry of --train
ADAPTERS: dict[str, AdapterModules] = {
    LORA: _kind("LoRA", "lora", LoraOptions),
    TENSOR_TRAIN: _kind("tensor-train", "tensor_train", TensorTrainOptions),
    PROMPT: _kind("prompt", "prompt", PromptOptions),
    PREFIX: _kind("prefix", "prefix", PrefixOptions),
}
