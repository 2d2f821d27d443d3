"""The names of counterparts."""

import pytest

from zoedge.counterparts import FLOAT16, INPUTS, counterpart, counterparts, has
from zoedge.forms import FORMS


@pytest.mark.parametrize(
    ("file", "predictions", "name"),
    [
        ("loss.onnx", False, "loss_inputs.onnx"),
        ("loss.onnx", True, "predictions_inputs.onnx"),
        ("suffix.onnx", False, "suffix_inputs.onnx"),
        ("suffix.onnx", True, "predictions_suffix_inputs.onnx"),
        ("activations.onnx", False, "activations_inputs.onnx"),
    ],
)
def test_a_counterpart_is_called_by_its_graph_and_kind(file, predictions, name):
    assert counterpart(file, INPUTS, predictions=predictions) == name
    assert counterpart(file, FLOAT16, predictions=predictions) == name.replace("inputs", "float16")


def test_a_bundle_has_a_kind_where_it_has_its_loss_graph():
    assert has(["loss.onnx", "loss_inputs.onnx"], INPUTS)
    assert not has(["loss.onnx", "loss_inputs.onnx"], FLOAT16)
    assert {*counterparts(INPUTS), *counterparts(FLOAT16)} == {*FORMS[INPUTS].files, *FORMS[FLOAT16].files}
