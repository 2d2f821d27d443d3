"""Make the demo's ingredients: a small network trained in the lab, and data as a device in the field sees it.

    python make.py FOLDER

FOLDER gets ``digits.onnx`` (a multilayer perceptron trained by scikit-learn on clean 8x8 digits),
``train.csv`` and ``test.csv``: other digits, seen by a camera that is mounted half a pixel off, has uneven
light and a haze, and is noisy.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

HIDDEN = 64
LAB_ROWS = 900
DEVICE_TRAIN_ROWS = 600


def seen_by_the_device(images: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return images [n, 8, 8] in [0, 1] as the device's camera gives them."""
    moved = images.copy()
    moved[:, :, 1:] = 0.5 * (images[:, :, 1:] + images[:, :, :-1])
    light = np.linspace(0.3, 1.0, 8)[None, None, :]
    haze = 0.15
    return np.clip(haze + (1.0 - haze) * light * moved + rng.normal(0.0, 0.1, images.shape), 0.0, 1.0)


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """Return the network as an ONNX graph: pixels [batch, 64] -> logits [batch, 10]."""
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    tensors = {"hidden.weight": w1.T, "hidden.bias": b1, "classifier.weight": w2.T, "classifier.bias": b2}
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(v, np.float32), k) for k, v in tensors.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["pixels", "hidden.weight", "hidden.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "classifier.weight", "classifier.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write_csv(path: Path, images: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """Write one row per image: 64 pixels and the label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"pixel{i}" for i in range(64)), "label"])
        for image, label in zip(images.reshape(len(images), 64), labels, strict=True):
            writer.writerow([*(f"{value:.4f}" for value in image), int(label)])


def main(folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images, labels = digits.images / 16.0, digits.target
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    lab, train, test = np.split(order, [LAB_ROWS, LAB_ROWS + DEVICE_TRAIN_ROWS])
    network = MLPClassifier((HIDDEN,), max_iter=400, random_state=0)
    network.fit(images[lab].reshape(len(lab), 64), labels[lab])
    onnx.save(to_onnx(network), folder / "digits.onnx")
    for name, rows in (("train", train), ("test", test)):
        write_csv(folder / f"{name}.csv", seen_by_the_device(images[rows], rng), labels[rows])
    print(f"accuracy in the lab: {network.score(images[test].reshape(len(test), 64), labels[test]):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
