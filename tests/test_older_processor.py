"""Files quantised to the whole of int8 come out right on a processor that clips sums: tried on any x86-64 Linux."""

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.older_processor import rewritten

HERE = Path(find_spec("onnxruntime").origin).parent
LIBRARIES = list((HERE / "capi").glob("onnxruntime_pybind11_state*.so"))

SCRIPT = """
import logging, sys, warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from zoedge import evaluate
from zoedge.export import to_bundle
from zoedge.sessions import clips_sums

logging.disable(logging.WARNING)
print("clips" if clips_sums() else "exact")
home, rng = Path(sys.argv[1]), np.random.default_rng(0)
tensor = lambda name, *shape: numpy_helper.from_array(
    (rng.uniform(-1, 1, shape) / np.sqrt(shape[0])).astype(np.float32), name
)
node, value = helper.make_node, helper.make_tensor_value_info
graph = helper.make_graph(
    [node("Gemm", ["x", "w1", "b1"], ["a"], name="one"), node("Relu", ["a"], ["h"], name="relu"),
     node("Gemm", ["h", "w2", "b2"], ["y"], name="two")],
    "g", [value("x", TensorProto.FLOAT, ["b", 64])], [value("y", TensorProto.FLOAT, ["b", 3])],
    [tensor("w1", 64, 64), tensor("b1", 64), tensor("w2", 64, 3), tensor("b2", 3)],
)
plain = home / "float.onnx"
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), plain)
x = 1 + 0.1 * rng.standard_normal((64, 64)).astype(np.float32)  # of one sign: sums are large
np.savez(home / "rows.npz", x=x, label=rng.integers(0, 3, 64))


class Rows(CalibrationDataReader):
    def __init__(self):
        self._rest = iter([{"x": x[i : i + 8]} for i in range(0, 64, 8)])

    def get_next(self):
        return next(self._rest, None)


for kind in (QuantType.QInt8, QuantType.QUInt8):
    quantize_static(
        plain, home / f"{kind}.onnx", Rows(), quant_format=QuantFormat.QDQ, activation_type=kind,
        weight_type=QuantType.QInt8,
    )
quantize_dynamic(plain, home / "dynamic.onnx", weight_type=QuantType.QInt8)
wanted = evaluate(to_bundle(plain, home / "plain", loss="cross-entropy").folder, home / "rows.npz")["loss"]
for name in ("QInt8", "QUInt8", "dynamic"):
    bundle = to_bundle(home / f"{name}.onnx", home / name, loss="cross-entropy")
    print(name, abs(evaluate(bundle.folder, home / "rows.npz")["loss"] - wanted) < 0.05)
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux" or len(LIBRARIES) != 1,
    reason="onnxruntime's library for x86-64 Linux is what can be rewritten",
)
def test_quantised_files_are_right_where_sums_are_clipped(tmp_path):
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    for folder in (HERE, HERE / "capi"):
        for path in folder.iterdir():
            copy = tmp_path / "onnxruntime" / path.relative_to(HERE)
            if not copy.exists():
                copy.symlink_to(path)
    library = tmp_path / "onnxruntime" / "capi" / LIBRARIES[0].name
    library.unlink()
    try:
        changed, count = rewritten(LIBRARIES[0].read_bytes())
    except ValueError as error:  # another build, or rewritten already
        pytest.skip(f"onnxruntime's library: {error}")
    library.write_bytes(changed)
    assert count >= 4
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(work)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["clips", "QInt8", "True", "QUInt8", "True", "dynamic", "True"]
