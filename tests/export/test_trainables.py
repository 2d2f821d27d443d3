"""What ``--train`` selects, and the roles that the parameter table lists."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.models import convnet, language_model, mlp, model, node, normal, save, value
from zoedge.errors import InputError
from zoedge.export.sources.onnx_file import from_onnx
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.head import find_head
from zoedge.export.surgery.request_error import RequestError
from zoedge.export.surgery.roles import is_parameter, is_statistic, role
from zoedge.export.surgery.trainables import KEYWORDS, choose_trained, make_table


def select(proto, *train, dead=(), parameters=None):
    graph = Graph(proto)
    weights = {t.name: np.zeros(tuple(t.dims), _dtype(t)) for t in graph.initializers.values()}
    names = parameters or [
        n for n in graph.initializers if is_parameter(graph, n) and not is_statistic(graph, n)
    ]
    names = [name for name in names if weights[name].dtype == np.float32]
    output = proto.graph.output[0].name
    chain = find_head(graph, output)
    table = make_table(graph, names, weights, {}, chain.tensors if chain else ())
    return choose_trained(graph, table, train, graph.reaching([output]), dead)


def _dtype(tensor):
    return {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.INT8: np.int8}.get(
        tensor.data_type, np.int64
    )


MLP = [
    "blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.0.norm.weight", "blocks.0.norm.bias",
    "blocks.1.fc.weight", "blocks.1.fc.bias", "classifier.weight", "classifier.bias",
]  # fmt: skip


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (("full",), MLP),
        (("bitfit",), [n for n in MLP if n.endswith("bias")]),
        (("norm",), MLP[2:4]),
        (("head",), MLP[6:]),
        (("lora",), []),
        (("head", "norm"), [*MLP[2:4], *MLP[6:]]),
        (("blocks.1.*",), MLP[4:6]),
        (("fc",), [*MLP[:2], *MLP[4:6]]),
        (("classifier.bias", "lora"), MLP[7:]),
        (("blocks.[0-1].fc.weight",), [MLP[0], MLP[4]]),
    ],
)
def test_entries_select_in_the_order_of_the_table(train, names):
    choice = select(mlp(), *train)
    assert list(choice.names) == names
    assert choice.adapter == ("lora" in train)
    assert choice.frozen == ()


def test_running_statistics_are_no_parameters():
    assert list(select(convnet(), "full").names) == [
        "conv1.weight", "bn.weight", "bn.bias", "conv2.weight", "conv2.bias", "fc.weight", "fc.bias",
    ]  # fmt: skip
    assert list(select(convnet(), "norm").names) == ["bn.weight", "bn.bias"]


UNKNOWN = "is none of full, lora, tensor-train, prompt, prefix, bitfit, norm, head and names no parameter"
MESSAGES = {
    ("blocks.2",): (
        f"--train blocks.2 {UNKNOWN}",
        ("blocks.1.fc.bias", "blocks.0.fc.bias", "blocks.1.fc.weight"),
    ),
    ("ful",): (f"--train ful {UNKNOWN}", ("full",)),
    (): ("--train is empty", ()),
}


@pytest.mark.parametrize("train", MESSAGES)
def test_an_entry_that_names_nothing_is_refused(train):
    with pytest.raises(RequestError) as error:
        select(mlp(), *train)
    assert (str(error.value), error.value.meant) == MESSAGES[train]


def test_running_statistics_by_name_are_refused():
    with pytest.raises(RequestError) as error:
        select(convnet(), "running_var")
    assert str(error.value) == (
        "--train running_var names bn.running_var, running statistics of a BatchNormalization, which aren't trained"
    )
    assert error.value.meant == ("bn.weight", "bn.bias")


@pytest.mark.parametrize("kind", [np.float16, np.int8])
def test_tensors_of_other_types_than_float32_are_refused(kind):
    tensors = {"w": normal((4, 4), 1).astype(kind), "b": normal(4, 2)}
    nodes = [node("Cast", "w", "f", to=1), node("MatMul", "x f", "m"), node("Add", "m b", "y")]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    with pytest.raises(InputError) as error:
        select(proto, "w")
    assert str(error.value) == (
        f"--train w names w, which is {np.dtype(kind)}, and only float32 can be trained"
    )
    assert list(select(proto, "full").names) == ["b"]


def test_a_full_request_on_a_quantised_graph_is_refused():
    tensors = {"w": normal((4, 4), 1).astype(np.int8), "ws": np.array(0.1, np.float32), "b": normal(4, 2)}
    nodes = [node("DequantizeLinear", "w ws", "f"), node("MatMul", "x f", "m"), node("Add", "m b", "y")]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    with pytest.raises(InputError) as error:
        select(proto, "full")
    assert str(error.value) == (
        "--train full can't train a quantised graph (this one computes with DequantizeLinear), as rounded "
        "weights don't take small steps"
    )
    assert list(select(proto, "bitfit").names) == ["b"]


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ("norm", "the model has no normalisation with float32 parameters"),
        ("bitfit", "the model has no float32 biases"),
        ("head", "the output doesn't come from a float32 linear layer"),
    ],
)
def test_groups_that_are_empty_are_refused(train, problem):
    nodes = [node("Conv", "x kernel", "c"), node("Relu", "c", "y")]
    proto = model(
        nodes, [value("x", ["n", 3, 4, 4])], [value("y", None)], {"kernel": normal((2, 3, 1, 1), 1)}
    )
    with pytest.raises(InputError) as error:
        select(proto, train)
    assert str(error.value) == f"--train {train} finds nothing: {problem}"


def with_unused():
    proto = mlp()
    proto.graph.node.append(node("MatMul", "f pooler.weight", "aside"))
    proto.graph.initializer.append(numpy_helper.from_array(normal((12, 4), 1), "pooler.weight"))
    proto.graph.output.append(helper.make_tensor_value_info("aside", TensorProto.FLOAT, ["n", 4]))
    return proto


def test_what_the_loss_does_not_read_is_frozen_in_a_group_and_refused_by_name():
    choice = select(with_unused(), "full")
    assert list(choice.names) == MLP
    assert choice.frozen == ("pooler.weight",)
    with pytest.raises(InputError) as error:
        select(with_unused(), "pooler")
    assert str(error.value) == (
        "--train pooler names only tensors that have no effect on the loss (pooler.weight)"
    )


def test_what_was_found_dead_is_frozen_too():
    choice = select(mlp(), "norm", "head", dead={"blocks.0.norm.bias"})
    assert choice.frozen == ("blocks.0.norm.bias",)
    assert "blocks.0.norm.bias" not in choice.names
    with pytest.raises(InputError, match="names only tensors that have no effect"):
        select(mlp(), "blocks.0.norm.bias", dead={"blocks.0.norm.bias"})


def roles(proto, head=()):
    graph = Graph(proto)
    return {name: role(graph, name, head) for name in graph.initializers}


def test_groups_follow_use_and_name():
    found = roles(convnet(), {"fc.weight", "fc.bias"})
    assert {name: r.group for name, r in found.items() if "running" not in name} == {
        "conv1.weight": "conv", "bn.weight": "norm", "bn.bias": "norm", "conv2.weight": "conv",
        "conv2.bias": "bias", "fc.weight": "head", "fc.bias": "head",
    }  # fmt: skip
    assert {name for name, r in found.items() if r.decay} == {"conv1.weight", "conv2.weight", "fc.weight"}
    found = roles(language_model())
    assert (found["embed.weight"].group, found["layers.0.mlp.weight"].group) == ("embedding", "mlp")
    assert (found["norm.bias"].group, found["norm.bias"].bias, found["head.bias"].group) == (
        "norm",
        True,
        "bias",
    )


def test_norms_written_out_in_single_operators_are_recognised():
    tensors = {
        "g": 1 + normal(4, 1), "c": normal(4, 2), "r": 1 + normal(4, 3), "scale": normal(4, 4),
        "two": np.array(2.0, np.float32), "eps": np.array(1e-5, np.float32), "one": np.array(1.0, np.float32),
    }  # fmt: skip
    nodes = [
        node("ReduceMean", "x", "m", keepdims=1),
        node("Sub", "x m", "d"),
        node("Pow", "d two", "p"),
        node("ReduceMean", "p", "v", keepdims=1),
        node("Add", "v eps", "ve"),
        node("Sqrt", "ve", "s"),
        node("Div", "d s", "n"),  # LayerNorm: n * g + c
        node("Mul", "n g", "ng"),
        node("Add", "ng c", "ln"),
        node("Div", "one s", "rs"),  # RMS norm: r * (x * (1 / s))
        node("Mul", "ln rs", "xr"),
        node("Mul", "r xr", "rms"),
        node("Mul", "rms scale", "y"),  # a layer scale is none
    ]
    found = roles(model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors))
    assert {n: found[n].group for n in ("g", "c", "r", "scale")} == {
        "g": "norm",
        "c": "norm",
        "r": "norm",
        "scale": "other",
    }
    assert (found["g"].bias, found["c"].bias) == (False, True)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("encoder.layer.0.attention.output.dense.weight", "attention"),
        ("encoder.layer.0.output.dense.weight", "mlp"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("h.0.q_lin.weight", "attention"),
        ("h.0.ffn.lin1.weight", "mlp"),
        ("pooler.dense.weight", "other"),
        ("keyboard.weight", "other"),
    ],
)
def test_matrices_are_attention_or_mlp_by_name(name, group):
    proto = model(
        [node("MatMul", f"x {name}", "y")],
        [value("x", ["n", 4])],
        [value("y", ["n", 4])],
        {name: normal((4, 4), 1)},
    )
    assert roles(proto)[name].group == group


def test_settings_masks_and_tables_are_no_parameters():
    tensors = {
        "mask": np.triu(np.full((4, 4), -1e9, np.float32), 1),
        "mean": normal(4, 1),
        "cos_cached": normal((9, 4), 2),
        "bias": normal(4, 3),
    }
    nodes = [
        node("Sub", "x mean", "a"),
        node("Add", "a mask", "b"),
        node("Gather", "cos_cached ids", "c"),
        node("Mul", "b c", "d"),
        node("Add", "d bias", "y"),
    ]
    proto = model(
        nodes, [value("x", [4, 4]), value("ids", [4], TensorProto.INT64)], [value("y", [4, 4])], tensors
    )
    graph = Graph(proto)
    assert [name for name in graph.initializers if is_parameter(graph, name)] == ["bias"]


def test_anonymous_matrices_take_their_group_from_their_node():
    nodes = [node("MatMul", "x onnx::MatMul_12", "y", name="/encoder/layer.3/attention/self/query/MatMul")]
    proto = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], {"onnx::MatMul_12": normal((4, 4), 1)}
    )
    weights = {"onnx::MatMul_12": normal((4, 4), 1)}
    (row,) = make_table(Graph(proto), ("onnx::MatMul_12",), weights, {}, ()).rows
    assert (row.group, row.decay) == ("attention", True)


@pytest.mark.parametrize("word", KEYWORDS)
def test_a_setting_called_like_a_keyword_is_no_parameter(tmp_path, word):
    """torch's exporter calls what torch.full makes "full"."""
    tensors = {word: np.full((), -1e9, np.float32), "w": normal((8, 3), 1), "b": normal(3, 2)}
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "q"), node("Max", f"q {word}", "y")]
    proto = model(nodes, [value("x", ["n", 8])], [value("y", ["n", 3])], tensors)
    source = save(proto, tmp_path / "m.onnx")
    exported = from_onnx(source, loss="mse", named=(word,))
    assert exported.parameters == ("w", "b")
