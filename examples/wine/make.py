"""Makes the files of this folder again: a small network trained on 30 wines, and tables of the others.

    pip install onnx scikit-learn
    python examples/wine/make.py

The data is UCI's Wine (Aeberhard and Forina, 1991, CC BY 4.0) as scikit-learn has it: 13 measurements of 178 wines of
three growers.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
SEEN, TUNED = 30, 98  # rows that the network was trained on, and rows to tune it on; the others are for tests
GROWERS = ("one", "two", "three")


def main() -> None:
    wine = load_wine()
    order = np.random.default_rng(0).permutation(len(wine.target))
    x, grower = wine.data[order], wine.target[order]
    seen = x[:SEEN]
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    net = MLPClassifier((16,), max_iter=60, random_state=0)
    net.fit((seen - mean) / deviation, grower[:SEEN])
    (w1, w2), (b1, b2) = net.coefs_, net.intercepts_
    tensors = {
        "mean": mean,
        "deviation": deviation,
        "fc.weight": w1.T,
        "fc.bias": b1,
        "out.weight": w2.T,
        "out.bias": b2,
    }
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "fc.weight", "fc.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "out.weight", "out.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "wine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 13])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"feature_names": json.dumps(wine.feature_names)})
    onnx.save(model, HERE / "wine.onnx")
    for name, rows in (("train", slice(SEEN, SEEN + TUNED)), ("test", slice(SEEN + TUNED, None))):
        with (HERE / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*wine.feature_names, "label"])
            table.writerows(
                [*(f"{v:g}" for v in row), GROWERS[k]] for row, k in zip(x[rows], grower[rows], strict=True)
            )


if __name__ == "__main__":
    main()
