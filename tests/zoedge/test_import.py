import subprocess
import sys

import pytest

import zoedge

HEAVY = ("torch", "onnx", "onnxruntime", "numba", "transformers", "scipy", "rich", "numpy")


def loaded_after(code):
    """The heavy packages that a fresh interpreter has loaded after running some code."""
    check = f"import sys\n{code}\nprint(*(n for n in {HEAVY!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_zoedge_loads_no_heavy_package():
    assert loaded_after("import zoedge") == set()


def test_the_command_line_loads_none_before_a_command_runs():
    assert loaded_after("import zoedge.cli.main") == set()


def test_the_device_side_loads_neither_torch_nor_onnx():
    modules = "zoedge.runtime.tune, zoedge.runtime.evaluate, zoedge.runtime.replay, zoedge.runtime.outputs"
    assert loaded_after(f"import {modules}") & {"torch", "onnx", "transformers", "scipy"} == set()


def test_all_is_sorted_complete_and_importable():
    assert zoedge.__all__ == sorted(zoedge.__all__)
    assert dir(zoedge) == zoedge.__all__
    for name in zoedge.__all__:
        assert getattr(zoedge, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zoedge' has no attribute 'tuna'"):
        _ = zoedge.tuna


def test_the_verbs_are_the_runtime_s():
    from zoedge.runtime import evaluate, replay, tune
    from zoedge.runtime.run import run_folder

    assert zoedge.tune is tune.tune
    assert zoedge.evaluate is evaluate.evaluate
    assert zoedge.predict is evaluate.predict
    assert zoedge.replay is replay.replay
    assert zoedge.Run is run_folder.Run


def test_the_export_side_is_an_attribute_that_loads_no_torch():
    assert loaded_after("import zoedge; zoedge.export.to_bundle; zoedge.runtime") <= {"numpy"}
