"""zoedge: fine-tune ONNX models on the device that runs them, with forward passes alone.

The Python verbs, each imported when it is first used: ``tune``, ``estimate``, ``bench``, ``doctor``, ``evaluate``,
``predict``, ``merge``, ``write_adapter`` and ``replay``; ``Bundle`` and ``Run`` open the folders they work on.
Making a bundle is ``zoedge.export.to_bundle``, on a workstation; ``zoedge.export`` loads when it is first used, too.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoedge.runtime.bench import bench
    from zoedge.runtime.doctor import doctor
    from zoedge.runtime.estimate import estimate
    from zoedge.runtime.evaluate import evaluate, predict
    from zoedge.runtime.outputs.verbs import merge, write_adapter
    from zoedge.runtime.replay import replay
    from zoedge.runtime.run.run_folder import Run
    from zoedge.runtime.tune import tune

    from .bundle import Bundle
    from .errors import BundleError, DataError, InputError, MissingPackageError, RefusedError, ZoedgeError
    from .options import TuneOptions

    __version__: str

__all__ = [
    "Bundle",
    "BundleError",
    "DataError",
    "InputError",
    "MissingPackageError",
    "RefusedError",
    "Run",
    "TuneOptions",
    "ZoedgeError",
    "__version__",
    "bench",
    "doctor",
    "estimate",
    "evaluate",
    "merge",
    "predict",
    "replay",
    "tune",
    "write_adapter",
]

_HERE = Path(__file__).parent
_SIBLINGS = _HERE.parent / "setup.cfg"
# In a clone this folder lies beside its subpackages, and Python that is started there takes it for all of zoedge,
# wherever another one is installed.
_INSTALLED = (_HERE / "runtime").is_dir()
if not _INSTALLED and _SIBLINGS.is_file() and "zoedge.runtime = runtime" in _SIBLINGS.read_text("utf-8"):
    __path__.append(str(_HERE.parent))

_ERRORS = ("BundleError", "DataError", "InputError", "MissingPackageError", "RefusedError", "ZoedgeError")
_HOME = {
    "Bundle": "zoedge.bundle",
    "TuneOptions": "zoedge.options",
    "Run": "zoedge.runtime.run.run_folder",
    "bench": "zoedge.runtime.bench",
    "doctor": "zoedge.runtime.doctor",
    "estimate": "zoedge.runtime.estimate",
    "evaluate": "zoedge.runtime.evaluate",
    "merge": "zoedge.runtime.outputs.verbs",
    "predict": "zoedge.runtime.evaluate",
    "replay": "zoedge.runtime.replay",
    "tune": "zoedge.runtime.tune",
    "write_adapter": "zoedge.runtime.outputs.verbs",
} | dict.fromkeys(_ERRORS, "zoedge.errors")


def __getattr__(name: str) -> Any:
    """Import a verb when it is asked for: ``import zoedge`` itself loads nothing heavy."""
    if name == "__version__":
        from .installed import version

        return version()
    if name in ("export", "runtime"):
        return import_module(f"zoedge.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'zoedge' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
