"""Small regression models as ONNX files, tables for them, and who listens to a run."""

from __future__ import annotations

import csv

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.tune import tune

NAMES = ("age", "rooms", "tax", "area")
TRAIN = ("full", "fc.bias")  # a bias of one element is trained by its name at least
SLOPES = np.array([[1.0, -2.0, 0.5, 3.0], [0.3, 0.1, -1.0, 0.2]])


def net(path, *, outputs=1, trained=None, feature_names=None):
    """x [batch, 4] -> y [batch, outputs]: linear, random or (slopes, offsets)."""
    rng = np.random.default_rng(5)
    weight, bias = trained or (rng.normal(size=(outputs, 4)) * 0.1, np.zeros(outputs))
    tensors = {"fc.weight": weight, "fc.bias": bias}
    node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], transB=1)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if feature_names:
        helper.set_model_props(model, {"feature_names": feature_names})
    onnx.save(model, path)
    return path


def two_layers(path):
    """x [batch, 4] -> y [batch, 1] by eight hidden units."""
    rng = np.random.default_rng(6)
    shapes = {"body.weight": (8, 4), "body.bias": (8,), "fc.weight": (1, 8), "fc.bias": (1,)}
    gemm = [
        helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], [y], transB=1)
        for x, name, y in (("x", "body", "h"), ("a", "fc", "y"))
    ]
    graph = helper.make_graph(
        [gemm[0], helper.make_node("Tanh", ["h"], ["a"]), gemm[1]],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array((0.4 * rng.normal(size=shape)).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def data(count=200, outputs=1, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4))
    y = x @ SLOPES[:outputs].T + 0.1 * rng.normal(size=(count, outputs))
    return x, y * scale + offset


def table(path, x, y, order=NAMES, target=("label",), *, extra=None, header=True):
    columns = dict(zip(NAMES, x.T, strict=True)) | dict(zip(target, y.T, strict=True)) | (extra or {})
    names = [*order, *(name for name in columns if name not in NAMES and name not in order)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(names)
        writer.writerows(zip(*(columns[name] for name in names), strict=True))
    return path


def options(**changes):
    return TuneOptions(
        **({"steps": 60, "method": "fzoo", "lr": 0.05, "batch_size": 16, "threads": 1} | changes)
    )


class Said(Silent):
    def __init__(self):
        self.header, self.notes, self.evaluations = {}, [], []

    def start(self, header, extent, step):
        self.header = dict(header)

    def evaluation(self, row):
        self.evaluations.append(row)

    def note(self, text):
        self.notes.append(text)


def exported(folder):
    """A bundle of ``net``."""
    to_bundle(net(folder / "net.onnx"), folder / "bundle", task="regression", train=TRAIN)
    return folder / "bundle"


def tuned(bundle, folder):
    """A run on ``data`` with its columns named, and who listened to it."""
    table(folder / "train.csv", *data())
    said = Said()
    tune(bundle, folder / "train.csv", folder / "run", options(), progress=said)
    return folder / "run", said
