"""The bundles of these tests, made where torch and transformers are: ``python -m tests.gpu.make_bundles FOLDER``.

All together are small enough to be carried to a machine that has a GPU and nothing to export with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TEXT = "text-generation"


def _mlp(folder: Path) -> Path:
    from tests.builders.networks import mlp

    return mlp(folder / "mlp.onnx")


def _cnn(folder: Path) -> Path:
    import onnx

    from tests.builders.models import convnet

    onnx.save(convnet(), folder / "cnn.onnx")
    return folder / "cnn.onnx"


def _opt(folder: Path) -> Path:
    from tests.builders.tiny import tiny_opt

    return tiny_opt(folder / "opt")


def _encoder(folder: Path) -> Path:
    from tests.builders.tiny import tiny_encoder

    return tiny_encoder(folder / "encoder")


# name -> what makes the model, and how it is exported
BUNDLES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "mlp-full": (_mlp, {"task": "classification", "train": ("full",)}),
    "mlp-lora": (_mlp, {"task": "classification", "train": ("lora",), "lora_rank": 4}),
    "cnn-full": (_cnn, {"task": "classification", "train": ("full",)}),
    "opt-full": (_opt, {"task": TEXT, "train": ("full",)}),
    "opt-lora": (_opt, {"task": TEXT, "train": ("lora",), "lora_rank": 4}),
    "opt-int8": (_opt, {"task": TEXT, "train": ("lora",), "lora_rank": 4, "quantize": "int8"}),
    "opt-int4": (_opt, {"task": TEXT, "train": ("lora",), "lora_rank": 4, "quantize": "int4"}),
    "encoder-head": (
        _encoder,
        {"task": "text-classification", "labels": ("bad", "good"), "train": ("lora",), "lora_rank": 4},
    ),
}


def make(folder: Path) -> Path:
    """Export what is missing."""
    from zoedge.export import to_bundle

    folder.mkdir(parents=True, exist_ok=True)
    for name, (model, settings) in BUNDLES.items():
        if not (folder / name).exists():
            with TemporaryDirectory() as work:
                to_bundle(model(Path(work)), folder / name, say=lambda text: None, **settings)
    return folder


if __name__ == "__main__":
    make(Path(sys.argv[1]))
