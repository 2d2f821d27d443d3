import sys
from collections import OrderedDict

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.parity import check_parity, initializers
from zoedge.errors import InputError, MissingPackageError
from zoedge.export.sources.torch_module import from_module


class Net(nn.Module):
    """Convolution, batch norm, a matrix used twice, two matrices of equal value, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.linear.weight
        self.same = nn.Linear(4, 4)
        self.same.load_state_dict(self.linear.state_dict())
        self.unused = nn.Linear(2, 2)
        self.logits_scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x, shift):
        h = torch.relu(self.norm(self.conv(x))).mean((2, 3)) + shift[:, None]
        h = self.same(torch.relu(self.again(torch.relu(self.linear(h)))))
        return {"scores": self.dropout(self.head(h)) * self.logits_scale, "hidden": h}


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net()
    module.norm.running_mean.fill_(0.3)
    module.norm.running_var.fill_(2.0)
    return module


@pytest.fixture(scope="module")
def exported(net):
    example = {"x": torch.randn(1, 1, 6, 6), "shift": torch.randn(1)}
    return from_module(net, example, task="classification", output_name="scores", labels=("a", "b", "c"))


def test_agrees_with_torch_at_other_batch_sizes(exported):
    check_parity(exported, ((1, 0), (3, 0), (8, 0)))


def test_reference_is_the_module_in_eval_mode(exported, net):
    inputs = exported.sample_inputs(np.random.default_rng(0), 4, 0)
    assert net.training  # the dropout of 0.9 would show
    conv = net.conv(torch.from_numpy(inputs["x"])).detach()
    norm = (conv - 0.3) / (2.0 + 1e-5) ** 0.5 * net.norm.weight.view(-1, 1, 1) + net.norm.bias.view(-1, 1, 1)
    h = torch.relu(norm).mean((2, 3)) + torch.from_numpy(inputs["shift"])[:, None]
    h = net.same(torch.relu(net.again(torch.relu(net.linear(h)))))
    wanted = (net.head(h) * 1.5).detach().numpy()
    np.testing.assert_allclose(exported.reference(inputs)["scores"], wanted, rtol=1e-5, atol=1e-6)


def test_every_tensor_has_its_own_name(exported, net):
    names = set(net.state_dict()) - {"again.weight"}
    assert set(exported.weights) == names
    assert exported.tied == {"linear.weight": ("again.weight",)}
    for name in names:
        np.testing.assert_array_equal(exported.weights[name], net.state_dict()[name].numpy())


def test_tensors_of_equal_value_stay_apart(exported):
    names = set(initializers(exported))
    assert {"linear.weight", "same.weight", "linear.bias", "same.bias"} <= names
    reads = [name for node in exported.model.graph.node for name in node.input]
    assert reads.count("linear.weight") == 2  # linear and again
    assert reads.count("same.weight") == 1


def test_parameters_are_what_can_be_trained(exported, net):
    trainable = {name for name, _ in net.named_parameters()} - {"unused.weight", "unused.bias"}
    assert set(exported.parameters) == trainable
    assert "norm.running_mean" in initializers(exported)


def test_weights_are_views_and_the_graph_has_no_data(exported, net):
    assert exported.weights["head.weight"].ctypes.data == net.head.weight.data_ptr()
    for name in exported.parameters:
        tensor = initializers(exported)[name]
        assert tensor.data_location == onnx.TensorProto.EXTERNAL
        assert not tensor.raw_data
        assert tuple(tensor.dims) == tuple(net.get_parameter(name).shape)


def test_graph_tells_nothing_about_this_machine(exported):
    raw = exported.model.SerializeToString()
    assert b".py" not in raw
    assert __file__.rpartition("/")[0].encode() not in raw


def test_declares_its_inputs(exported):
    assert [_dims(value) for value in exported.model.graph.input] == [["batch", 1, 6, 6], ["batch"]]
    assert [value.name for value in exported.model.graph.input] == ["x", "shift"]
    assert (exported.task, exported.loss, exported.logits) == ("classification", "cross-entropy", "scores")
    assert (exported.source.kind, exported.source.name) == ("torch", "Net")


def _dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_one_tensor_as_two_inputs():
    class Difference(nn.Module):
        def forward(self, a, b):
            return 2 * a - b

    both = torch.randn(2, 3)
    check_parity(from_module(Difference(), {"a": both, "b": both}, task="regression"), ((4, 0),))


def test_a_parameter_may_be_called_like_a_value_of_the_graph():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Parameter(torch.randn(3, 5))
            self.linear_1 = nn.Parameter(torch.randn(2, 3))

        def forward(self, x):
            return nn.functional.linear(torch.relu(nn.functional.linear(x, self.linear)), self.linear_1)

    exported = from_module(Odd(), {"x": torch.randn(3, 5)}, task="classification")
    assert set(exported.parameters) == {"linear", "linear_1"}
    check_parity(exported, ((5, 0),))


def test_more_dynamic_axes_and_integers():
    module = nn.Sequential(OrderedDict(embed=nn.Embedding(10, 4), head=nn.Linear(4, 2)))
    example = {"input": torch.tensor([[0, 9, 3]])}
    dims = {"input": {0: "batch", 1: "length"}}
    exported = from_module(module, example, task="regression", output_name="y", dynamic_shapes=dims)
    check_parity(exported, ((2, 7), (1, 3), (5, 12)))
    assert exported.sample_inputs(np.random.default_rng(0), 2, 7)["input"].dtype == np.int64


def test_takes_the_first_of_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, x

    check_parity(from_module(Pair(), {"x": torch.randn(2, 2)}, task="regression"), ((3, 0),))


def test_is_quiet_and_leaves_the_module_as_it_was(net, capfd):
    net.conv.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    from_module(
        net,
        {"x": torch.randn(2, 1, 6, 6), "shift": torch.randn(2)},
        task="classification",
        output_name="scores",
    )
    assert net.training
    assert not net.conv.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert capfd.readouterr() == ("", "")
    net.train()


LINEAR = nn.Linear(3, 2)
X = torch.randn(2, 3)


@pytest.mark.parametrize(
    ("module", "inputs", "options", "message"),
    [
        (
            LINEAR,
            {"input": X},
            {"task": "clasification"},
            "no task 'clasification'.*did you mean classification",
        ),
        (LINEAR, {"input": X}, {"task": "regression", "loss": "hinge"}, "no loss 'hinge': use mse"),
        (LINEAR, {}, {"task": "regression"}, "example_inputs is empty"),
        (LINEAR, {"x": X}, {"task": "regression"}, "example_inputs x don't fit Linear.forward"),
        (LINEAR, {"input": X.double()}, {"task": "regression"}, "input is torch.float64 on cpu"),
        (nn.Linear(3, 2).half(), {"input": X}, {"task": "regression"}, "weight is torch.float16"),
        (
            LINEAR,
            {"input": X},
            {"task": "classification", "labels": ("a", "b", "c")},
            "3 labels .* 2 classes",
        ),
        (LINEAR, {"input": X[None]}, {"task": "classification"}, r"shape \[2, 2, 2\]: .* \[batch, classes\]"),
        (
            LINEAR,
            {"input": X},
            {"task": "regression", "dynamic_shapes": {"inputs": {0: "batch"}}},
            "did you mean input",
        ),
        (
            LINEAR,
            {"input": X},
            {"task": "regression", "dynamic_shapes": {"input": {2: "n"}}},
            "it has 2 axes",
        ),
        (
            nn.Bilinear(3, 3, 2),
            {"input1": X, "input2": X[:1]},
            {"task": "regression"},
            "batch is 2 and, in input2, 1",
        ),
    ],
)
def test_bad_input(module, inputs, options, message):
    with pytest.raises(InputError, match=message) as caught:
        from_module(module, inputs, **options)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_not_there(net):
    example = {"x": torch.randn(2, 1, 6, 6), "shift": torch.randn(2)}
    with pytest.raises(InputError, match="has no score: it has scores, hidden"):
        from_module(net, example, task="classification", output_name="score")


def test_a_module_that_cannot_be_traced():
    class Branchy(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="torch can't export this model with dynamic shapes: ") as caught:
        from_module(Branchy(), {"x": X}, task="regression")
    assert "\n" not in str(caught.value)


def test_an_input_called_like_a_parameter():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.x

    with pytest.raises(InputError, match="x is an input and a parameter"):
        from_module(Clash(), {"x": X}, task="regression")


def test_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        MissingPackageError, match=r"needs the package onnxscript: pip install 'onnx>=.*' 'onnxscript>="
    ):
        from_module(LINEAR, {"input": X}, task="regression")
