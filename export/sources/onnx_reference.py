"""Runs the original file: the values that a bundle made of it has to reproduce."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from zoedge.errors import InputError

from ..ports import is_tensor
from ..session import Session
from ..surgery.graph import Graph
from .inference_form import random_nodes, to_inference_form
from .onnx_clean import inline_functions
from .onnx_unfuse import unfuse_gemm
from .onnx_wire import read_skeleton

Array = np.ndarray[Any, Any]


class OnnxReference:
    """One session of the original file; inner values, and nodes behind them, are returned too.

    Args:
        path: the file.
        graph: of the file, as it was read; only read.
        nodes: to be added, which read values of the file.
        values: names to return besides the file's outputs.

    Raises:
        InputError: onnxruntime can't run the file.
    """

    def __init__(
        self, path: Path, graph: Graph, nodes: Sequence[onnx.NodeProto] = (), values: Collection[str] = ()
    ) -> None:
        inner = [name for name in dict.fromkeys(values) if name not in graph.outputs]
        self.outputs = (*_comparable(graph), *inner)
        if not inner and to_inference_form(inline_functions(read_skeleton(path).model)) is None:
            self._session = Session(
                path, str(path), prepack=False
            )  # the file itself, whose weights are mapped
            return
        model = inline_functions(onnx.load(str(path), load_external_data=False))
        to_inference_form(model)
        unfuse_gemm(model.graph)
        model.graph.node.extend(nodes)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        self._session = Session(model.SerializeToString(), str(path), folder=path.parent, prepack=False)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs that are tensors of numbers, and the values."""
        try:
            return self._session.run(inputs, self.outputs)
        except InputError as error:
            raise InputError(
                f"{error}; from Python, give example_inputs of valid shapes and values"
            ) from error


def _comparable(graph: Graph) -> list[str]:
    """Return the outputs that are tensors of numbers and functions of the inputs."""
    chance = {value for node in random_nodes(graph) for value in node.output}
    tensors = [
        v for v in graph.proto.output if is_tensor(v) and v.type.tensor_type.elem_type != TensorProto.STRING
    ]
    return [value.name for value in tensors if not chance & graph.reaching([value.name])]
