"""The one place that imports onnxruntime, which comes by extra because its wheels exclude each other."""

from __future__ import annotations

from zoedge.errors import MissingPackageError

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackageError("onnxruntime", "cpu", "running a model") from error

__all__ = ["ORT_ERRORS", "TELL_PLACES", "Places", "first_line", "onnxruntime", "places"]

Places = dict[str, dict[str, int]]  # execution provider -> operator -> how many of its nodes run there
TELL_PLACES = ("session.record_ep_graph_assignment_info", "1")  # an entry of a session's configuration

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

_UNTOLD: tuple[type[Exception], ...] = (AttributeError, *ORT_ERRORS)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def places(session: onnxruntime.InferenceSession) -> Places | None:
    """Return which provider runs how many nodes of which operator; None where onnxruntime doesn't tell.

    It tells from version 1.24 on, of sessions that were opened with ``TELL_PLACES``.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except _UNTOLD:
        return None
    found: Places = {}
    for part in parts:
        operators = found.setdefault(part.ep_name, {})
        for node in part.get_nodes():
            operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return found
