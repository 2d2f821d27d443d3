"""What a reader needs to judge figures by; nothing that names the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "zoedge", "onnxruntime-gpu", "onnxruntime", "cupy-cuda13x", "torch", "transformers", "peft", "numpy", "onnx",
    "nvidia-cublas", "nvidia-cudnn-cu13",
)  # fmt: skip


def machine(provider: str) -> dict[str, Any]:
    """Return the processor, the GPU and the versions of what computes."""
    return {
        "provider": provider,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        **(_gpu() if provider == "cuda" else {}),
    }


def _gpu() -> dict[str, Any]:
    try:
        import cupy

        about = cupy.cuda.runtime.getDeviceProperties(0)
        return {
            "gpu": about["name"].decode(),
            "gpu_memory": int(about["totalGlobalMem"]),
            "compute_capability": f"{about['major']}.{about['minor']}",
            "driver_cuda": cupy.cuda.runtime.driverGetVersion(),
            "runtime_cuda": cupy.cuda.runtime.runtimeGetVersion(),
        }
    except Exception as error:  # the sections will say more
        return {"gpu": f"unknown: {error}"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
