"""Tensor-train adapters (AdaZeta, arXiv 2406.18060, section 3.1; LoRETTA, arXiv 2402.11417) beside frozen matrices.

Without an activation, y += Up(Down(x)). With one, y += Up(relu(Down(y) + b)) + c, the papers' adapter behind a layer:

- y is the product as the graph has it, often before the layer's own bias, which b then stands for, too.
- Down and Up are cores of the papers' sizes and rank. Each is multiplied out to a product of two thin matrices, from
  both ends at once (the papers' fast forward), which then meet the activations: costs hardly depend on the rows.
- The last core of Up and the biases start as zeros, so that the model is unchanged; the papers' start changes it.
- The papers put one before some layers, too (OPT's fc1, Llama's gate_proj and up_proj); here all are behind or beside.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from zoedge.adapters import TENSOR_TRAIN, TensorTrainBranch, TensorTrainOptions
from zoedge.adapters.tensor_train import CoreMap
from zoedge.manifest import Branch

from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear
from .base import LayerSurgery

SEED = 0


class TensorTrainSurgery:
    """A ``LayerSurgery``."""

    counted = "down.0"
    follows_activations = False
    # what ends a block: BERT's output.dense, OPT's fc2, Llama's down_proj as in the papers, and the like
    sites: tuple[str, ...] = ("*output.dense", "fc2", "down_proj", "c_proj", "lin2")

    def describe(self, graph: Graph, first: Linear, own: TensorTrainOptions) -> Branch:
        """Return a branch whose tensors have the module's name in front."""
        relu = own.tt_activation == "relu"
        branch = Branch(
            kind=TENSOR_TRAIN,
            module=first.module,
            weight=first.weight,
            transposed=first.transposed,
            shape=(first.width_out, first.width_in),
            tensors={},
            settings={"rank": own.tt_rank, "bottleneck": own.tt_bottleneck, "relu": float(relu)},
        )
        parts = TensorTrainBranch.of(branch).shapes
        branch.tensors.update({part: graph.fresh(f"{first.module}.tensor_train.{part}") for part in parts})
        return branch

    def unaddable(self, branch: Branch) -> str:
        """Return what an activation does to it."""
        relu = TensorTrainBranch.of(branch).relu
        return "an adapter with an activation inside can't be added to" if relu else ""

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return the cores' and biases'."""
        return TensorTrainBranch.of(branch).shapes

    def initial(self, branch: Branch) -> dict[str, Array]:
        """Return cores as the papers start them, but for the last one of Up, and biases: those are zeros.

        An element of core i is normal of deviation s^(1/d) / sqrt(r_i), r_i its right rank, so that an element of the
        whole map has the deviation s = 1 / sqrt(rows + columns).
        """
        train = TensorTrainBranch.of(branch)
        values = {name: np.zeros(train.shapes[part], np.float32) for part, name in branch.tensors.items()}
        for side, cores in train.maps.items():
            names, deviation = train.cores(side), 1.0 / math.sqrt(cores.rows + cores.columns)
            for i, name in enumerate(names if side == "down" else names[:-1]):
                spread = deviation ** (1.0 / len(names)) / math.sqrt(cores.ranks[i + 1])
                values[name] = (spread * _normal(name, cores.shapes[i])).astype(np.float32)
        return values

    def beside(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add both maps."""
        return self._maps(graph, x, y, branch, stacked=False)

    def beside_stacked(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add both maps, batched over the points."""
        return self._maps(graph, x, y, branch, stacked=True)

    def _maps(self, graph: Graph, x: str, y: str, branch: Branch, *, stacked: bool) -> str:
        train = TensorTrainBranch.of(branch)
        value = _made(graph, x, y, train.down.rows, stacked=stacked) if train.relu else x
        for side, cores in train.maps.items():
            left, right = _multiplied(graph, cores, train.cores(side), stacked=stacked)
            value = graph.add("MatMul", graph.add("MatMul", value, left), right)
            if train.relu:
                bias = branch.tensors[f"{side}.bias"]
                value = graph.add("Add", value, graph.unsqueeze(bias, 1) if stacked else bias)
            if train.relu and side == "down":
                value = graph.add("Relu", value)
        return value


def _normal(name: str, shape: tuple[int, ...]) -> Array:
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=[SEED, seed])).standard_normal(shape)


def _made(graph: Graph, x: str, y: str, width: int, *, stacked: bool) -> str:
    """Return what the layer makes, by point where points are stacked."""
    if not stacked:
        return y
    points = graph.add("Gather", graph.add("Shape", x), graph.hold(np.array([0], np.int64)), axis=0)
    rest = graph.hold(np.array([-1, width], np.int64), "rows")
    return graph.add("Reshape", y, graph.add("Concat", points, rest, axis=0))


def _multiplied(graph: Graph, cores: CoreMap, names: tuple[str, ...], *, stacked: bool) -> tuple[str, str]:
    """Add the products of the cores from both ends; return [rows, k r] and [k r, columns], k of the split core."""

    def shaped(value: str, *shape: int) -> str:
        lead = [0] if stacked else []  # 0: as many points as there are
        return graph.add("Reshape", value, graph.hold(np.array([*lead, *shape], np.int64), "core"))

    sizes, ranks, split = cores.sizes, cores.ranks, cores.split
    left, rows = names[0], sizes[0]
    for i in range(1, split + 1):
        rows *= sizes[i]
        left = shaped(graph.add("MatMul", left, names[i]), rows, ranks[i + 1])
    if cores.shared > 1:
        left = shaped(left, cores.rows, cores.shared * cores.rank)
    right, columns = names[-1], sizes[-1]
    for i in range(len(sizes) - 2, split, -1):
        columns *= sizes[i]
        right = shaped(graph.add("MatMul", names[i], right), ranks[i], columns)
    if cores.shared > 1:  # each part of the split core meets its own columns
        parts = np.eye(cores.shared, dtype=np.float32).reshape(cores.shared, 1, cores.shared, 1)
        apart = graph.add("Mul", shaped(right, 1, cores.rank, 1, columns), graph.hold(parts, "parts"))
        right = shaped(apart, cores.shared * cores.rank, cores.columns)
    return left, right


SURGERY: LayerSurgery = TensorTrainSurgery()
