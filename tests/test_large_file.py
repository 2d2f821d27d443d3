"""A file with more than 2 GB of weights, which protobuf can't hold, goes the whole way at the command line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH = 550_000, 1024
USED = (0, 1, 2, ROWS // 2, ROWS - 2, ROWS - 1)  # the rows that aren't zero; the last lie behind the 2 GB
TABLE_BYTES = 4 * ROWS * WIDTH
MOST_COPIES = 1.5  # of the table in memory at a time, mapped pages included


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model whose frozen table is a sparse file, and rows for it."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    with (folder / "m.data").open("wb") as file:
        file.truncate(TABLE_BYTES)
        for row in USED:
            file.seek(4 * WIDTH * row)
            file.write(rng.standard_normal(WIDTH, np.float32).tobytes())
    table = TensorProto(name="embed.weight", data_type=TensorProto.FLOAT, dims=(ROWS, WIDTH))
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "m.data"), ("offset", "0"), ("length", str(TABLE_BYTES))):
        table.external_data.add(key=key, value=value)
    held = {
        "fc.weight": (0.05 * rng.standard_normal((WIDTH, 32))).astype(np.float32),
        "shift": rng.standard_normal(WIDTH).astype(np.float32),
        "head.weight": rng.standard_normal((32, 2)).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["embed.weight", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axes"], ["m"], keepdims=0),
        helper.make_node(
            "Add", ["m", "shift"], ["s"]
        ),  # checks draw rows of zeros, and fc must see something
        helper.make_node("MatMul", ["s", "fc.weight"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "head.weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [table, *(numpy_helper.from_array(array, name) for name, array in held.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(48):
            ids = rng.choice(USED, 3).tolist()
            file.write(json.dumps({"ids": ids, "label": int(max(ids) > ROWS // 2)}) + "\n")
    yield folder
    shutil.rmtree(folder)  # pytest would keep gigabytes


MEASURED = """
import atexit, sys
from zoedge.cli.main import main

def tell():
    sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))

atexit.register(tell)
main()
"""


def peak(*arguments):
    """Run the command line in a process of its own; return the most memory that it held, in bytes.

    What the system counts for a child (``ru_maxrss``) would begin with what the process of the tests held.
    """
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stderr.splitlines()[-1].split()[1])


@pytest.mark.slow
def test_more_than_two_gigabytes_are_exported_and_tuned(place):
    assert onnx.load(place / "m.onnx", load_external_data=False).ByteSize() < 1 << 20
    assert TABLE_BYTES > 1 << 31
    exporting = peak("export", place / "m.onnx", "-o", place / "bundle", "--task", "classification")
    arguments = ("--steps", 2, "--eval-every", 0, "--log-every", 1)
    tuning = peak("tune", place / "bundle", "-d", place / "rows.jsonl", "-o", place / "run", *arguments)
    rows = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    copies = {"export": exporting / TABLE_BYTES, "tune": tuning / TABLE_BYTES}
    assert max(copies.values()) < MOST_COPIES, copies
