"""The hardware that runs passes and moves weights: one class each, chosen once at the start of a verb."""

from __future__ import annotations

from collections.abc import Callable

from zoedge.errors import InputError

from .base import FINE, Array, Buffer, Device, DeviceSession, Grain, Read
from .cpu import Cpu
from .ort import Places

__all__ = [
    "DEVICES",
    "FINE",
    "Array",
    "Buffer",
    "Cpu",
    "Device",
    "DeviceSession",
    "Grain",
    "Places",
    "Read",
    "open_device",
]


def _cuda(threads: int, precision: str) -> Device:
    from .cuda_missing import check_wheel

    check_wheel()
    from .cuda import Cuda  # which needs CuPy

    return Cuda(threads, precision)


# by --provider; the threads of its moves and the precision of passes -> device
DEVICES: dict[str, Callable[[int, str], Device]] = {"cpu": Cpu, "cuda": _cuda}


def open_device(provider: str, threads: int = 0, precision: str = "auto") -> Device:
    """Return the device that a provider of onnxruntime runs on.

    Args:
        provider: its name, as ``--provider`` gives it.
        threads: that move weights at most; 0 for one per usable core.
        precision: of passes, as ``--precision`` gives it.

    Raises:
        InputError: there is none of that name, it can't be used here, or it has no such precision.
    """
    if provider not in DEVICES:
        raise InputError(f"--provider {provider!r} is not supported: use {', '.join(DEVICES)}")
    return DEVICES[provider](threads, precision)
