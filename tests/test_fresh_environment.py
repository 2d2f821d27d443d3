"""The device's side of the bargain, in virtual environments of its own: no torch anywhere.

A convolutional ``.onnx`` file is exported where ``onnx`` is the only extra, and tuned where not even that is
installed.
"""

import json
import os
import re
import subprocess
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent


def convolutional(path):
    """x [batch, 1, 8, 8] -> logits [batch, 3]: convolution, batch normalisation, pooling, a linear layer."""
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.standard_normal((4, 1, 3, 3)) * 0.3,
        "conv.bias": np.zeros(4),
        "norm.weight": np.ones(4),
        "norm.bias": np.zeros(4),
        "norm.running_mean": np.zeros(4),
        "norm.running_var": np.ones(4),
        "fc.weight": rng.standard_normal((3, 4)) * 0.3,
        "fc.bias": np.zeros(3),
    }
    norm = ["c", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", norm, ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def stripes(path, count, seed):
    """Images whose class is the direction of their stripes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.normal(0.0, 0.3, (count, 1, 8, 8))
    waves = np.sin(np.arange(8) * np.pi / 2)
    patterns = [waves[:, None] * np.ones(8), waves[None, :] * np.ones((8, 1)), np.zeros((8, 8))]
    images[:, 0] += np.stack([patterns[label] for label in labels])
    np.savez(path, x=images.astype(np.float32), labels=labels)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with zoedge and onnx, installed as a user would, and a way to run things in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}

    def run(*arguments, fails=False, where=folder):
        done = subprocess.run([python, *arguments], cwd=where, env=clean, capture_output=True, text=True)
        assert fails == bool(done.returncode), done.stdout + done.stderr
        return done

    constraints = str(ROOT / "constraints.txt")
    run("-m", "pip", "install", "--quiet", "-c", constraints, f"{ROOT}[cpu,onnx]")
    return folder, run


def test_a_convolutional_file_is_exported_with_onnx_alone_and_tuned_without_it(environment):
    folder, run = environment
    convolutional(folder / "conv.onnx")
    for name, count, seed in (("train", 200, 0), ("test", 100, 1)):
        stripes(folder / f"{name}.npz", count, seed)
    (folder / "data").mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.npz").rename(folder / "data" / f"{name}.npz")
    absent = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in sys.argv[1:]))"
    run("-c", absent, "torch", "transformers", "optimum", "scipy")
    run("-m", "zoedge", "export", "conv.onnx", "-o", "bundle", "--task", "classification", "--train", "full")

    run("-m", "pip", "uninstall", "--quiet", "-y", "onnx")
    run("-c", absent, "torch", "onnx")
    before = run("-m", "zoedge", "eval", "bundle", "--data", "data", "--json").stdout
    run("-m", "zoedge", "tune", "bundle", "--data", "data", "-o", "run", "--steps", "300")
    after = run("-m", "zoedge", "eval", "run", "--data", "data", "--json").stdout
    run("-m", "zoedge", "merge", "run", "-o", "tuned")
    refused = run("-m", "zoedge", "export", "conv.onnx", "-o", "again", fails=True)
    assert refused.returncode == 2
    line = re.search(r"pip install ('onnx>=[\d.]+')$", refused.stderr.strip())
    run("-m", "pip", "install", "--quiet", line[1].strip("'"))
    run("-m", "zoedge", "export", "conv.onnx", "-o", "again", "--task", "classification", "--train", "full")
    assert accuracy(after) > accuracy(before) + 0.2


def test_python_in_the_clone_s_own_folder_finds_all_of_zoedge(environment):
    _, run = environment
    modules = "zoedge, zoedge.runtime.tune, zoedge.cli.main"
    found = run(
        "-c", f"import {modules}; print(zoedge.__file__, zoedge.tune, zoedge.export)", where=ROOT
    ).stdout
    assert str(ROOT) in found
    assert run("-m", "zoedge", "--version", where=ROOT).stdout.startswith("zoedge ")
    run("-m", "zoedge", "methods", where=ROOT)


def test_folders_of_the_same_names_beside_an_installed_package_are_not_taken_in(environment, tmp_path):
    folder, run = environment
    site = next((folder / "venv" / "lib").glob("python3*/site-packages"))
    for name in ("setup.cfg", "runtime"):
        assert not (site / name).exists()
    (site / "setup.cfg").write_text("zoedge.runtime = runtime")
    try:
        assert run("-c", "import zoedge; print(len(zoedge.__path__))").stdout == "1\n"
    finally:
        (site / "setup.cfg").unlink()


def accuracy(printed):
    return json.loads(printed)["accuracy"]
