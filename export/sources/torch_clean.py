"""Removes what the torch exporter writes and no run needs, without touching a parameter."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir


def clean_traced(model: ir.Model, tensors: Container[str]) -> None:
    """Fold shape arithmetic, drop identities, repeats, dead nodes and source locations, in place.

    Nodes that read one of ``tensors`` (by value name) are never folded, so each stays one initializer; the
    exporter's own optimiser would merge initializers of equal value and fold small weights.
    """

    def foldable(node: ir.Node) -> bool | None:
        if node.op_type == "Shape":
            return None  # reads no values
        return False if any(i is not None and i.name in tensors for i in node.inputs) else None

    fold_constants_ir(model, onnx_shape_inference=True, should_fold=foldable)
    for step in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
