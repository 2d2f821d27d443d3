"""Models and their bundles: of the sizes that goals speak of, and small ones to try the commands with."""

from __future__ import annotations

FAMILIES = {
    "opt": {"small": "opt-125m", "large": "opt-1.3b"},
    "tiny": {"small": "tiny", "large": "opt-5m"},
}
BUNDLES = ("small-full", "small-lora", "large-lora")
SHAPES = {
    "opt": {"steps": ("1x16", "8x64", "16x128"), "large": ("16x64",)},
    "tiny": {"steps": ("1x16", "4x32"), "large": ("4x32",)},
}
MEMORY_AT = {"opt": "8x64", "tiny": "4x32"}  # the shape whose memory is taken


def model_name(family: str, size: str) -> str:
    """Return the model of a family's size."""
    return FAMILIES[family][size]


def bundle_name(family: str, bundle: str) -> str:
    """Return the folder of one of ``BUNDLES``."""
    size, _, kind = bundle.partition("-")
    return f"{model_name(family, size)}-{kind}"
