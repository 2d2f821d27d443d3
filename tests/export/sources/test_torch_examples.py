"""Example inputs of a torch module: what Python, NumPy and torch make of numbers."""

import numpy as np
import pytest
import torch

from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.export.sources.torch_examples import as_tensors

X = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize(
    "value",
    [
        np.array(X, np.float32),
        np.array(X),
        X,
        torch.tensor(X),
        torch.tensor(X, requires_grad=True),
        np.broadcast_to(np.float32(1.0), (2, 4)),
        np.array(X, np.float32)[::-1],
    ],
    ids=["float32", "float64", "list", "tensor", "with gradient", "read-only", "strided"],
)
def test_a_module_is_exported_with_any_array(tmp_path, value):
    bundle = to_bundle(
        Net(), tmp_path / "bundle", task="classification", train=("full",), example_inputs={"x": value}
    )
    assert bundle.manifest.inputs[0].dtype == "float32"


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_, np.float32, np.float16])
def test_other_types_stay(dtype):
    (tensor,) = as_tensors({"x": np.ones((2, 3), dtype)}).values()
    assert tensor.numpy().dtype == dtype
    assert tensor.shape == (2, 3)


@pytest.mark.parametrize("value", ["text", None, {"a": 1}, [[1.0], [1.0, 2.0]], object(), 1j])
def test_what_is_no_array_of_numbers_is_named(value):
    with pytest.raises(InputError, match=r"example_inputs has \w+ as x, which is no array of numbers"):
        as_tensors({"x": value})


@pytest.mark.parametrize("dtype", [np.longdouble, ">f8", ">f4"])
def test_floats_of_any_width_and_byte_order_are_float32(dtype):
    (tensor,) = as_tensors({"x": np.array(X, dtype)}).values()
    assert torch.equal(tensor, torch.tensor(X))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            {"x": np.ones((2, 5), np.float32)},
            r"Net called with example_inputs \(x torch.float32 \[2, 5\]\) raised",
        ),
        ({"x": np.float32(3.0)}, r"Net called with example_inputs \(x torch.float32 \[\]\) raised"),
        ({"x": np.ones((0, 4), np.float32)}, "has an empty array as x: give at least one row"),
        (
            np.ones((2, 4), np.float32),
            "example_inputs is a ndarray and must tell each argument of forward by its name",
        ),
        ((torch.ones(2, 4),), "example_inputs is a tuple and must tell"),
    ],
)
def test_inputs_that_do_not_fit_the_module_are_told(tmp_path, inputs, said):
    with pytest.raises(InputError, match=said):
        to_bundle(Net(), tmp_path / "bundle", task="classification", example_inputs=inputs)
    assert not (tmp_path / "bundle").exists()
