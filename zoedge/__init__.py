"""zoedge: fine-tune ONNX models on the device that runs them, with forward passes alone.

The Python verbs, each imported when it is first used: ``tune``, ``estimate``, ``bench``, ``evaluate``,
``predict``, ``merge``, ``write_adapter`` and ``replay``; ``Bundle`` and ``Run`` open the folders they work on.
Making a bundle is ``zoedge.export.to_bundle``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoedge.runtime.bench import bench
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
    "estimate",
    "evaluate",
    "merge",
    "predict",
    "replay",
    "tune",
    "write_adapter",
]

_ERRORS = ("BundleError", "DataError", "InputError", "MissingPackageError", "RefusedError", "ZoedgeError")
_HOME = {
    "Bundle": "zoedge.bundle",
    "TuneOptions": "zoedge.options",
    "Run": "zoedge.runtime.run.run_folder",
    "bench": "zoedge.runtime.bench",
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
        from importlib.metadata import version

        return version("zoedge")
    if name not in _HOME:
        raise AttributeError(f"module 'zoedge' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
