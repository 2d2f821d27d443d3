"""Tensors that a run may change: initializers that are graph inputs as well."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from zoedge.names import PREDICT, in_graph

_IR_VERSION = 8  # below 4, every initializer had to be an input and none of them counted as variable


def make_overridable(model: onnx.ModelProto, names: Collection[str]) -> None:
    """List initializers among the inputs of a finished model, in place and in the order it has them.

    onnxruntime then never folds, packs or transposes such a tensor, and reads its memory in every run.
    Our own ``PREDICT`` is one of them wherever there is one.
    """
    model.ir_version = max(model.ir_version, _IR_VERSION)
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.name in names or tensor.name == in_graph(PREDICT)
    )
