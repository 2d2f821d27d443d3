"""Class names and the head of a Hugging Face classifier: kept as it is, renamed, or made anew."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from zoedge.errors import InputError

from .class_names import in_order, serves
from .quiet import quiet


def config_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the class names of a configuration in the order of the logits."""
    return tuple(str(config.id2label[i]) for i in sorted(config.id2label))


def keeps_head(config: PretrainedConfig, labels: tuple[str, ...]) -> bool:
    """Return whether a trained head serves ``labels``: the same names, or names for its unnamed classes.

    Other names or another count mean other classes, and those need a new head.
    """
    return serves(config_labels(config), labels)


def final_labels(config: PretrainedConfig, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``labels``, in the order of a kept head's logits if it names the same classes."""
    return in_order(config_labels(config), labels)


def set_labels(config: PretrainedConfig, labels: tuple[str, ...]) -> None:
    """Write class names into a configuration, in place."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}


def head_names(auto_class: Any, config: PretrainedConfig) -> tuple[str, str]:
    """Return (weight, bias), the names of a model's last linear layer.

    They are the tensors whose shape follows the number of classes; the models for the comparison are made
    without memory.

    Raises:
        InputError: the head isn't one linear layer with a bias.
    """
    shapes = []
    for classes in (2, 3):
        other = copy.deepcopy(config)
        set_labels(other, tuple(map(str, range(classes))))
        with quiet(), torch.device("meta"):
            model = auto_class.from_config(other)
        shapes.append({name: tensor.shape for name, tensor in model.named_parameters()})
    changed = [name for name, shape in shapes[0].items() if shape != shapes[1][name]]
    modules = {name.rpartition(".")[0] for name in changed}
    if len(changed) != 2 or len(modules) != 1:
        found = ", ".join(changed) or "nothing"
        raise InputError(
            f"{type(model).__name__} has no single linear layer with a bias as its head ({found} follows the "
            "number of classes): keep its labels, or start from its encoder"
        )
    module = modules.pop()
    return f"{module}.weight", f"{module}.bias"


def reset_head(model: nn.Module, names: tuple[str, str]) -> None:
    """Set a head to zeros, so that a new one gives every class the same probability until it is tuned."""
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).zero_()
