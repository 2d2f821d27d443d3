"""LoRA branches: which layers get one, and that y becomes y + (alpha / rank) (x A^T) B^T."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.models import (
    convnet,
    language_model,
    mlp,
    mlp_numpy,
    mlp_tensors,
    model,
    node,
    normal,
    run,
    value,
)
from tests.builders.quantised import QUANTISED, quantised
from zoedge.adapters import LoraBranch, LoraOptions
from zoedge.errors import InputError
from zoedge.export.adapters.base import BranchSettings
from zoedge.export.adapters.branches import add_branches, initial_factors
from zoedge.export.adapters.targets import choose_targets
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.linears import find_linears


def with_branches(proto, *, rank=2, alpha=3.0, targets=None, excluded=(), output=None):
    """Return (runnable model with random factors, branches, factors)."""
    out = output or proto.graph.output[0].name
    graph = Graph(proto)
    lora = BranchSettings(LoraOptions(lora_rank=rank, lora_alpha=alpha), targets)
    branches = add_branches(graph, choose_targets(graph, lora, graph.reaching([out]), excluded), lora)
    factors = {n: normal(a.shape, i + 50) for i, (n, a) in enumerate(initial_factors(branches).items())}
    done = graph.finish(list(proto.graph.input), [value(out, None)])
    for tensor in done.graph.initializer:
        if tensor.name in factors:
            tensor.CopyFrom(numpy_helper.from_array(factors[tensor.name], tensor.name))
    return done, [LoraBranch.of(branch) for branch in branches], factors


def delta(x, factors, module, scale):
    return scale * (x @ factors[f"{module}.lora_A.weight"].T) @ factors[f"{module}.lora_B.weight"].T


FORMS = {
    "MatMul [in, out]": ([node("MatMul", "x w", "y")], (5, 4), True),
    "MatMul of a Transpose": (
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        (4, 5),
        False,
    ),
    "Gemm transB": ([node("Gemm", "x w b", "y", transB=1)], (4, 5), False),
    "Gemm": ([node("Gemm", "x w b", "y")], (5, 4), True),
    "Gemm of a Transpose": ([node("Transpose", "w", "t"), node("Gemm", "x t b", "y")], (4, 5), False),
    "through Identity": ([node("Identity", "w", "i"), node("MatMul", "x i", "y")], (5, 4), True),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_branch_adds_the_low_rank_product_in_every_form_of_a_linear_layer(form):
    nodes, shape, transposed = FORMS[form]
    tensors = {"w": normal(shape, 1), "b": normal(4, 2)}
    proto = model(nodes, [value("x", ["n", 5])], [value("y", ["n", 4])], tensors)
    branched, (branch,), factors = with_branches(proto)
    x = normal((3, 5), 3)
    assert (branch.weight, branch.module, branch.transposed) == ("w", "w", transposed)
    assert factors["w.lora_A.weight"].shape == (2, 5)
    wanted = run(proto, {"x": x})["y"] + delta(x, factors, "w", 1.5)
    np.testing.assert_allclose(run(branched, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)


def test_the_branch_equals_adding_ba_to_the_matrix():
    proto = mlp()
    branched, branches, factors = with_branches(proto, excluded={"classifier.weight"})
    tensors = mlp_tensors()
    for branch in branches:
        product = branch.alpha / branch.rank * factors[branch.b] @ factors[branch.a]
        tensors[branch.weight] = tensors[branch.weight] + (product.T if branch.transposed else product)
    x = normal((6, 8), 9)
    np.testing.assert_allclose(run(branched, {"x": x})["y"], mlp_numpy(tensors, x)[0], rtol=1e-4, atol=1e-5)
    assert [b.module for b in branches] == ["blocks.0.fc", "blocks.1.fc"]
    assert [b.transposed for b in branches] == [False, True]


def test_a_matrix_used_twice_has_one_pair_of_factors_beside_each_use():
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r w", "y")]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], {"w": normal((4, 4), 1)})
    branched, (branch,), factors = with_branches(proto)
    x, w = normal((3, 4), 2), normal((4, 4), 1)
    merged = w + (1.5 * factors[branch.b] @ factors[branch.a]).T
    np.testing.assert_allclose(
        run(branched, {"x": x})["y"], np.maximum(x @ merged, 0) @ merged, rtol=1e-4, atol=1e-5
    )


def test_half_precision_layers_keep_float32_factors():
    tensors = {"w": normal((4, 5), 1).astype(np.float16)}
    nodes = [node("Cast", "x", "h", to=TensorProto.FLOAT16), *FORMS["Gemm transB"][0][:0],
             node("Gemm", "h w", "g", transB=1), node("Cast", "g", "y", to=TensorProto.FLOAT)]  # fmt: skip
    proto = model(nodes, [value("x", ["n", 5])], [value("y", ["n", 4])], tensors)
    branched, _, factors = with_branches(proto)
    assert all(array.dtype == np.float32 for array in factors.values())
    x = normal((3, 5), 3)
    wanted = run(proto, {"x": x})["y"] + delta(x, factors, "w", 1.5)
    np.testing.assert_allclose(run(branched, {"x": x})["y"], wanted, atol=5e-3)


@pytest.mark.parametrize("form", QUANTISED)
def test_a_quantised_layer_gets_a_float_branch(form):
    proto = quantised(form)
    (linear,) = find_linears(Graph(proto))
    assert (linear.quantized, linear.width_in, linear.width_out, linear.module) == (True, 32, 16, "fc")
    branched, _, factors = with_branches(proto)
    x = normal((3, 32), 3)
    wanted = run(proto, {"x": x})["y"] + delta(x, factors, "fc", 1.5)
    np.testing.assert_allclose(run(branched, {"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)


def test_products_of_activations_and_scaled_gemms_get_no_branch():
    tensors = {"w": normal((4, 4), 1), "stack": normal((2, 4, 4), 2)}
    nodes = [
        node("MatMul", "x x", "a"),
        node("Gemm", "a w", "b", alpha=2.0),
        node("Gemm", "b w", "c", transA=1),
        node("MatMul", "c stack", "y"),
    ]
    proto = model(nodes, [value("x", [4, 4])], [value("y", [2, 4, 4])], tensors)
    assert find_linears(Graph(proto)) == []


def test_names_come_from_the_node_where_the_matrix_has_none():
    nodes = [
        node("MatMul", "x onnx::MatMul_12", "a", name="/encoder/layer.0/query/MatMul"),
        node("MatMul", "a onnx::MatMul_13", "y", name="MatMul_7"),
    ]
    tensors = {"onnx::MatMul_12": normal((4, 4), 1), "onnx::MatMul_13": normal((4, 4), 2)}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    assert [linear.module for linear in find_linears(Graph(proto))] == [
        "encoder.layer.0.query",
        "onnx::MatMul_13",
    ]


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (("fc",), ["blocks.0.fc", "blocks.1.fc"]),
        (("blocks.1.*",), ["blocks.1.fc"]),
        (("classifier", "*.0.fc"), ["blocks.0.fc", "classifier"]),
    ],
)
def test_targets_are_patterns_on_the_path_or_its_last_part(targets, modules):
    _, branches, _ = with_branches(mlp(), targets=targets, excluded={"classifier.weight"})
    assert [branch.module for branch in branches] == modules


def test_the_first_values_are_pefts_and_depend_on_nothing_but_the_name():
    def factors():
        graph = Graph(mlp())
        lora = BranchSettings(LoraOptions(lora_rank=4, lora_alpha=8.0), ("fc",))
        targets = choose_targets(graph, lora, graph.reaching(["y"]), ())
        return initial_factors(add_branches(graph, targets, lora))

    first, again = factors(), factors()
    a = first["blocks.0.fc.lora_A.weight"]
    assert (a.shape, a.dtype) == ((4, 8), np.float32)
    assert np.abs(a).max() <= 1 / np.sqrt(8) < 1.2 * np.abs(a).max()
    assert not first["blocks.0.fc.lora_B.weight"].any()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["blocks.1.fc.lora_A.weight"][:, :8], a)


def test_a_target_that_names_nothing_is_refused_with_near_names():
    with pytest.raises(InputError) as error:
        with_branches(mlp(), targets=("blocks.0.fd",))
    assert str(error.value) == (
        "--target-modules blocks.0.fd names no linear layer (convolutions and embeddings get no LoRA branch)"
    )
    assert error.value.meant == ("blocks.0.fc", "blocks.1.fc")


def test_a_graph_of_convolutions_is_refused():
    with pytest.raises(InputError) as error:
        with_branches(convnet(), excluded={"fc.weight"})
    assert str(error.value) == (
        "the graph has no linear layer for a LoRA branch (convolutions and embeddings get none, the head only by name)"
    )


def test_a_layer_that_the_output_does_not_need_gets_no_branch():
    proto = mlp()
    proto.graph.node.append(node("MatMul", "f unused", "aside"))
    proto.graph.initializer.append(numpy_helper.from_array(normal((12, 4), 1), "unused"))
    proto.graph.output.append(helper.make_tensor_value_info("aside", TensorProto.FLOAT, ["n", 4]))
    _, branches, _ = with_branches(proto, output="y")
    assert "unused" not in [branch.module for branch in branches]


def test_the_tied_head_of_a_language_model_is_no_default_target():
    _, branches, _ = with_branches(language_model(), excluded={"embed.weight"})
    assert [branch.module for branch in branches] == ["layers.0.mlp"]
