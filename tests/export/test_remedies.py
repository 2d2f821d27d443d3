"""Whatever a message of export tells to use works on the very file that it is about."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.builders.models import INT64, convnet, mlp, model, node, normal, save, value
from zoedge import InputError
from zoedge.export import to_bundle
from zoedge.export.surgery.trainables import KEYWORDS

RNG = np.random.default_rng(0)


def integers(*shape):
    return RNG.integers(-60, 60, shape).astype(np.int8)


def pair(x, y):
    return [node("QuantizeLinear", f"{x} s z", f"{y}_q"), node("DequantizeLinear", f"{y}_q s z", y)]


SCALES = {"s": np.float32(0.03), "z": np.int8(0)}


def scalars(proto):
    """Give zero points and scales no axis, which ``model`` adds."""
    for tensor in proto.graph.initializer:
        if list(tensor.dims) == [1] and tensor.name in (*SCALES, "flag"):
            del tensor.dims[:]
    return proto


def quantised_convnet(*, float_bias=False, bias_name="conv.bias"):
    nodes = [
        *pair("x", "xd"),
        node("DequantizeLinear", "conv.weight_quantized s z", "k"),
        node("Conv", f"xd k {bias_name if float_bias else ''}".strip(), "c"),
        node("Relu", "c", "r"),
        *pair("r", "rd"),
        node("Flatten", "rd", "f"),
        node("DequantizeLinear", "head.weight_quantized s z", "w"),
        node("MatMul", "f w", "y"),
    ]
    tensors = {
        "conv.weight_quantized": integers(4, 1, 3, 3),
        "head.weight_quantized": integers(64, 3),
        **SCALES,
    }
    if float_bias:
        tensors[bias_name] = normal(4, 1)
    return scalars(model(nodes, [value("x", ["b", 1, 6, 6])], [value("y", ["b", 3])], tensors, opset=17))


def integer_convnet():
    """Nothing but integers multiplied with integers."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "xq xs xz"),
        node("ConvInteger", "xq k xz", "i"),
        node("Cast", "i", "c", to=TensorProto.FLOAT),
        node("Mul", "c xs", "m"),
        node("Flatten", "m", "y"),
    ]
    tensors = {"k": integers(3, 1, 6, 6)}
    return model(nodes, [value("x", ["b", 1, 6, 6])], [value("y", ["b", 3])], tensors, opset=17)


def integer_product():
    nodes = [
        node("DynamicQuantizeLinear", "x", "xq xs xz"),
        node("MatMulInteger", "xq w xz", "i"),
        node("Cast", "i", "y", to=TensorProto.FLOAT),
    ]
    return model(nodes, [value("x", ["b", 8])], [value("y", ["b", 3])], {"w": integers(8, 3)}, opset=17)


def linear_classifier():
    held = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml",
        coefficients=[0.1] * 12, intercepts=[0.0] * 3, classlabels_ints=[0, 1, 2], post_transform="NONE",
    )  # fmt: skip
    proto = model([held], [value("x", ["b", 4])], [value("y", ["b", 3])], {}, opset=17)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def half():
    tensors = {
        "fc.weight": normal((8, 16), 1).astype(np.float16),
        "out.weight": normal((16, 3), 2).astype(np.float16),
    }
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h fc.weight", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b out.weight", "c"),
        node("Cast", "c", "y", to=TensorProto.FLOAT),
    ]
    return model(nodes, [value("x", ["b", 8])], [value("y", ["b", 3])], tensors)


def recurrent():
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "w", "r", "bias"], ["", "hn"], hidden_size=3),
        node("Squeeze", "hn first", "y"),
    ]
    tensors = {"w": normal((1, 12, 5), 1), "r": normal((1, 12, 3), 2), "bias": normal((1, 24), 3)}
    tensors["first"] = np.array([0])
    return model(nodes, [value("x", ["b", "t", 5])], [value("y", ["b", 3])], tensors)


def embeddings():
    nodes = [node("Gather", "table ids", "e"), node("ReduceMean", "e", "y", axes=[1], keepdims=0)]
    tensors = {"table": normal((9, 3), 1)}
    return model(nodes, [value("ids", ["b", "t"], INT64)], [value("y", ["b", 3])], tensors, opset=17)


def dead_bias():
    """Its only bias is taken away again, which only running it shows."""
    nodes = [
        node("MatMul", "x fc.weight", "a"),
        node("Add", "a fc.bias", "b"),
        node("Sub", "b fc.bias", "y"),
    ]
    tensors = {"fc.weight": normal((8, 3), 1), "fc.bias": normal(3, 2)}
    return model(nodes, [value("x", ["b", 8])], [value("y", ["b", 3])], tensors)


def dead_layer():
    """One hidden layer is multiplied by zero."""
    return mlp(tail=[node("MatMul", "f aside", "g"), node("Sub", "g g", "n"), node("Add", "y n", "z")])


def with_aside(proto):
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(normal((12, 3), 9), "aside"))
    return proto


FILES = {
    "mlp": mlp,
    "convnet": convnet,
    "convnet without head": lambda: convnet(head=False),
    "QDQ convnet": quantised_convnet,
    "QDQ convnet, float bias": lambda: quantised_convnet(float_bias=True),
    "QDQ convnet, nameless bias": lambda: quantised_convnet(float_bias=True, bias_name="onnx::Conv_12"),
    "ConvInteger": integer_convnet,
    "MatMulInteger": integer_product,
    "LinearClassifier": linear_classifier,
    "float16": half,
    "LSTM": recurrent,
    "embeddings": embeddings,
    "dead bias": dead_bias,
    "dead layer": lambda: with_aside(dead_layer()),
}
REQUESTS = [
    *({"train": (entry,)} for entry in KEYWORDS),
    {"train": ()},
    {"train": ("ful",)},
    {"train": ("biases",)},
    {"train": ("weight",)},
    {"train": ("running_mean",)},
    {"train": ("aside",)},
    {"target_modules": ("hed",)},
    {"target_modules": ("no_such_layer",)},
    {"target_modules": ("aside",)},
    {"quantize": "int8"},
    {"quantize": "int8", "train": ("full",)},
    {"quantize": "int4", "train": ("head",)},
]


def named(message, request):
    """Return the requests that a message tells to use instead."""
    meant = re.search(r"; did you mean (.*)\?$", message)
    if meant:
        option = "target_modules" if message.startswith("--target-modules") else "train"
        return [{**request, option: (value,)} for value in meant[1].split(", ")]
    told = re.search(r": use (--.*)$", message)
    assert told, message
    return [follow(remedy, request) for remedy in re.split(r", | or (?=--)", told[1])]


def follow(remedy, request):
    words = remedy.split()
    changed = dict(request)
    if "without" in words:
        del words[words.index("without") : words.index("without") + 2]
        del changed["target_modules"]
    for option, given in zip(words[::2], words[1::2], strict=True):
        key = option.removeprefix("--").replace("-", "_")
        changed[key] = given if key == "quantize" else (given,)
    return changed


@pytest.mark.parametrize("file", FILES)
def test_following_a_message_works_within_one_step(tmp_path, file):
    path = save(FILES[file](), tmp_path / "m.onnx")
    worked, hopeless = [], []
    for number, request in enumerate(REQUESTS):
        try:
            to_bundle(path, tmp_path / f"{number}", loss="cross-entropy", **request)
            worked.append(request)
        except InputError as error:
            message = str(error)
            assert not (tmp_path / f"{number}").exists()
            if "nothing of this file can be tuned" in message:
                hopeless.append(request)
                continue
            for place, remedy in enumerate(named(message, request)):
                bundle = to_bundle(path, tmp_path / f"{number}.{place}", loss="cross-entropy", **remedy)
                assert bundle.manifest.trainable, message
    assert not (worked and hopeless), (worked, hopeless)
    assert bool(hopeless) == (file in ("ConvInteger", "MatMulInteger", "LinearClassifier"))


def test_what_may_be_done_about_a_file_of_integers_is_told(tmp_path):
    path = save(integer_product(), tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        to_bundle(path, tmp_path / "bundle", loss="cross-entropy")
    assert str(error.value) == (
        "the graph has no linear layer for a LoRA branch: what MatMulInteger makes are integers, and a branch is "
        "added to floats: nothing of this file can be tuned, as its weights are integers that MatMulInteger "
        "multiplies; quantise the model in the QDQ format (QuantizeLinear and DequantizeLinear), dynamically, or its "
        "weights alone"
    )
