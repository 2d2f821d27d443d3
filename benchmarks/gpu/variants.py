"""What is measured, by name; libraries are imported by the process that needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu.names import bundle_name, model_name
from gpu.variant import Place, Variant

PRECISIONS = ("float32", "tf32", "float16")
PROBES = 15  # and the point between them


def _ours(bundle: str, precision: str, **options: Any) -> Callable[[Place], Variant]:
    def make(place: Place) -> Variant:
        from gpu.ours import Ours

        return Ours(place, bundle_name(place.family, bundle), precision, **options)

    return make


def _stock(bundle: str, *, half: bool = False) -> Callable[[Place], Variant]:
    def make(place: Place) -> Variant:
        from gpu.stock import Stock

        return Stock(place, bundle_name(place.family, bundle), half=half)

    return make


def _torch(size: str, **settings: str) -> Callable[[Place], Variant]:
    def make(place: Place) -> Variant:
        from gpu.in_torch import TorchMezo

        return TorchMezo(place, model_name(place.family, size), **settings)

    return make


def _noise(place: Place) -> Variant:
    from gpu.noise import Noise

    return Noise(place, bundle_name(place.family, "small-full"))


SIXTEEN = {"method": "fzoo", "queries": PROBES}

VARIANTS: dict[str, Callable[[Place], Variant]] = {
    "noise": _noise,
    "stock": _stock("small-full"),
    **{f"full {p}": _ours("small-full", p) for p in PRECISIONS},
    **{f"LoRA {p}": _ours("small-lora", p) for p in PRECISIONS},
    "torch MeZO": _torch("small"),
    "LoRA 16 points": _ours("small-lora", "float32", **SIXTEEN),
    "LoRA 16 points, a pass each": _ours("small-lora", "float32", **SIXTEEN, points_per_pass=1),
    "LoRA 16 points float16": _ours("small-lora", "float16", **SIXTEEN),
    "stock float16": _stock("large-lora", half=True),
    "LoRA q,v float16": _ours("large-lora", "float16"),
    "torch MeZO LoRA q,v float16": _torch("large", dtype="float16", branches="hand"),
    "torch MeZO peft q,v float16": _torch("large", dtype="float16", branches="peft"),
}
