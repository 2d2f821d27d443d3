"""Tests marked ``gpu`` are collected everywhere, and skipped with the reason where there is no GPU to run them on."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.gpu.rows import rows_for

BUNDLES_VARIABLE = "ZOEDGE_GPU_BUNDLES"


def why_not():
    """Why tests can't be run on a GPU here; "" where they can. What zoedge itself makes of the GPU isn't asked."""
    if importlib.util.find_spec("cupy") is None:
        return "needs a GPU: CuPy is not installed"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "needs a GPU: this onnxruntime has no CUDAExecutionProvider"
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            return ""
    except Exception as error:
        return f"needs a GPU: {error}"
    return "needs a GPU: there is none"


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_not() if marked else ""
    for item in marked:
        # libraries for GPUs warn of what is none of our business
        item.add_marker(pytest.mark.filterwarnings("default"))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """The folder of the bundles: those of the variable, or made now."""
    folder = os.environ.get(BUNDLES_VARIABLE)
    if folder:
        return Path(folder)
    pytest.importorskip("transformers", reason=f"needs transformers, or bundles in {BUNDLES_VARIABLE}")
    from tests.gpu.make_bundles import make

    return make(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def rows():
    return rows_for
