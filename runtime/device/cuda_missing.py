"""What ``--provider cuda`` needs, and the lines that bring what is missing: nothing falls back to the processor."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from zoedge.errors import InputError, MissingPackageError
from zoedge.installed import pip_line

from .ort import first_line
from .ort import onnxruntime as ort

CUDA_PROVIDER = "CUDAExecutionProvider"
_EXTRA = "cuda"
_WHEELS = ("onnxruntime", "onnxruntime-gpu")  # both bring the module onnxruntime, and exclude each other
_LIBRARY = "libonnxruntime_providers_cuda.so"


def check_wheel() -> None:
    """See that onnxruntime has the provider, that CuPy is there and that there is a GPU; load CUDA's libraries.

    Raises:
        InputError: the wheel for processors is installed, CuPy can't be loaded, or no GPU is found.
        MissingPackageError: CuPy isn't installed.
    """
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise InputError(
            f"--provider cuda needs the build of onnxruntime for GPUs, and {ort.__version__} here is the one for "
            f"processors: {_exchange()}"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # what it misses is told by check_session, with a remedy
        ort.preload_dlls(directory="")
    _check_devices(_cupy())


def check_session(session: Any) -> None:
    """See that a session of onnxruntime has the provider: it leaves out one whose libraries it can't load.

    Raises:
        InputError: it hasn't; says why where the system tells.
    """
    found = session.get_providers()
    if CUDA_PROVIDER in found:
        return
    raise InputError(
        f"--provider cuda is not possible here: onnxruntime {ort.__version__} could not start its CUDA provider and "
        f"offers {', '.join(found)} ({_cause()}): {pip_line(_EXTRA)}"
    )


def _exchange() -> str:
    """Return the lines that replace the wheel; both are removed where both are there, as they share their files."""
    there = [name for name in _WHEELS if _is_installed(name)]
    return f"pip uninstall -y {' '.join(there or _WHEELS[:1])} && {pip_line(_EXTRA)}"


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise MissingPackageError("cupy", _EXTRA, "--provider cuda") from error
        raise _unloadable(error) from error
    except ImportError as error:
        raise _unloadable(error) from error


def _unloadable(error: ImportError) -> InputError:
    return InputError(
        f"--provider cuda needs CuPy, which is installed and can't be loaded ({_told(error)}): {pip_line(_EXTRA)}"
    )


def _check_devices(cupy: Any) -> None:
    try:
        count, why = cupy.cuda.runtime.getDeviceCount(), "there is none that CUDA sees"
    except Exception as error:  # CuPy's class is known only where CuPy is
        count, why = 0, _told(error)
    if count < 1:
        raise InputError(
            f"--provider cuda finds no GPU ({why}): install NVIDIA's driver for CUDA 13 or later (nvidia-smi shows "
            "what there is), see that CUDA_VISIBLE_DEVICES hides none, or use --provider cpu"
        )


def _cause() -> str:
    """Return what the system says of the provider's library: it names the first that it lacks."""
    path = Path(ort.__file__).parent / "capi" / _LIBRARY
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return _told(error)
    return (
        "its libraries can be loaded, so the driver may be older than they need: nvidia-smi shows its version"
    )


def _told(error: Exception) -> str:
    return first_line(error).rstrip(".")
