"""A base larger than the memory a process may hold is tuned, and a long run does not grow.

The limit is RLIMIT_DATA: private writable memory, refused by the kernel beyond it. It needs no rights, as
control groups do, and is stricter: it counts what is mapped, touched or not.
"""

import json
import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.networks import mlp, rows
from zoedge.export import to_bundle

MIB = 1 << 20
WIDTH, LAYERS = 4096, 9  # 604 MB of frozen float32
LIMIT = 400 * MIB

# what the tuned process held, on its last line
WATCHED = """
import sys
from zoedge.cli.main import main
from zoedge.runtime.machine.memory import Watch
with Watch() as watch:
    code = main(sys.argv[1:], standalone_mode=False)
print(watch.most.anonymous, watch.most.data)
sys.exit(code)
"""


def wide_mlp(path):
    rng = np.random.default_rng(0)
    names = [f"fc{k}" for k in range(LAYERS)]
    tensors, nodes, value = [], [], "x"
    for name in names:
        weight = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        tensors.append(numpy_helper.from_array(weight, f"{name}.weight"))
        nodes.append(helper.make_node("Gemm", [value, f"{name}.weight"], [name], transB=1))
        nodes.append(helper.make_node("Tanh", [name], [f"{name}_a"]))
        value = f"{name}_a"
    tensors.append(numpy_helper.from_array(rng.standard_normal((3, WIDTH), np.float32) * 0.02, "out.weight"))
    nodes.append(helper.make_node("Gemm", [value, "out.weight"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    bundle = folder / "bundle"
    to_bundle(wide_mlp(folder / "wide.onnx"), bundle, task="classification", train=("lora",), lora_rank=4)
    x = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=(x[:, 0] > 0).astype(np.int64))
    return folder


def tune(folder, output, *arguments, limit=None):
    def limited():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-P", "-c", WATCHED, "tune", folder / "bundle", "-d", folder / "data.npz"]
    command += ["-o", output, "--steps", "3", "--batch-size", "4", "--queries", "4", "--val-size", "0.1"]
    return subprocess.run(
        [*map(str, command), *arguments], capture_output=True, text=True, preexec_fn=limited, check=False
    )


@pytest.mark.slow
def test_a_base_larger_than_the_limit_is_tuned(wide, tmp_path):
    done = tune(wide, tmp_path / "run", limit=LIMIT)
    assert done.returncode == 0, done.stderr
    assert "memory is short" in done.stdout
    anonymous, data = map(int, done.stdout.split()[-2:])
    assert (wide / "bundle" / "weights.safetensors").stat().st_size > LIMIT
    assert anonymous < data <= LIMIT
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum("step_seconds" in row for row in log) == 3


@pytest.mark.slow
def test_with_prepacking_the_same_limit_is_not_enough(wide, tmp_path):
    done = tune(wide, tmp_path / "run", "--prepack", "yes", "--no-preflight", limit=LIMIT)
    assert done.returncode == 2
    assert "bad_alloc" in done.stderr


@pytest.mark.slow
def test_prepacking_changes_no_more_than_rounding(wide, tmp_path):
    losses = []
    for prepack in ("yes", "no"):
        done = tune(wide, tmp_path / prepack, "--prepack", prepack)
        assert done.returncode == 0, done.stderr
        log = [json.loads(line) for line in (tmp_path / prepack / "log.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in log if "loss" in row])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


GROWTH = """
import sys
from zoedge.options import TuneOptions
from zoedge.runtime.machine.memory import memory_held
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.tune import tune


class Weighed(Silent):
    def step(self, row, *, report):
        if row["step"] in (1000, 5000):
            print(memory_held().anonymous)


options = TuneOptions(steps=5000, batch_size=8, method_options={"queries": 2}, eval_every=500, lr=1e-4)
tune(*sys.argv[1:4], options, progress=Weighed())
"""


@pytest.mark.slow
def test_five_thousand_steps_don_t_grow(tmp_path):
    to_bundle(mlp(tmp_path / "mlp.onnx"), tmp_path / "bundle", task="classification", train=("lora",))
    rows(tmp_path / "data.jsonl", 100)
    command = [
        sys.executable,
        "-P",
        "-c",
        GROWTH,
        tmp_path / "bundle",
        tmp_path / "data.jsonl",
        tmp_path / "r",
    ]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    early, late = map(int, done.stdout.split())
    assert late - early < MIB
