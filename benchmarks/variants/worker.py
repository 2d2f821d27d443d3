"""A variant in a process of its own: one line on standard input is one step, its seconds are the answer.

``python -m variants.worker VARIANT MODEL_FOLDER DATA_FOLDER``
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _stock(folder: Path, data: Path) -> Any:
    from variants.stock import Stock

    return Stock(folder, data)


def _ours(bundle: str, **settings: Any) -> Callable[[Path, Path], Any]:
    def make(folder: Path, data: Path) -> Any:
        from variants.ours import Ours

        return Ours(folder, data, bundle, **settings)

    return make


def _torch(kind: str, *, lora: bool) -> Callable[[Path, Path], Any]:
    def make(folder: Path, data: Path) -> Any:
        from variants import in_torch

        return getattr(in_torch, kind)(folder, data, lora=lora)

    return make


VARIANTS: dict[str, Callable[[Path, Path], Any]] = {
    "stock": _stock,
    "full": _ours("full"),
    "full-signs": _ours("full", directions="rademacher"),
    "full-signs-quarter": _ours("full", directions="rademacher", active_elements=0.25),
    "lora": _ours("lora"),
    "lora-qv": _ours("lora-qv"),
    "lora-int8": _ours("lora-int8"),
    "lora-qv-int8": _ours("lora-qv-int8"),
    "torch-mezo": _torch("TorchMezo", lora=False),
    "torch-mezo-lora": _torch("TorchMezo", lora=True),
    "torch-adamw": _torch("TorchAdamW", lora=False),
    "torch-adamw-lora": _torch("TorchAdamW", lora=True),
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    name, folder, data = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    variant = VARIANTS[name](folder, data)
    answers.write(json.dumps({"loss": variant.loss(), "passes": variant.passes}) + "\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        variant.step()
        answers.write(json.dumps({"seconds": time.perf_counter() - started}) + "\n")


if __name__ == "__main__":
    main()
