"""The one place that imports onnxruntime, which comes by extra because its wheels exclude each other."""

from __future__ import annotations

from zoedge.errors import MissingPackageError

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackageError("onnxruntime", "cpu", "running a model") from error

__all__ = ["ORT_ERRORS", "first_line", "onnxruntime"]

# onnxruntime raises classes of its own that share no public base
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
