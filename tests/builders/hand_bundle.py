"""A bundle written by hand with onnx.helper: three layers, LoRA beside two, as the export would write it.

x [batch, 4] -> fc [8, 4] -> relu -> mix [in 8, out 8] -> features -> classifier [3, 8] -> logits
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from zoedge.adapters import LoraBranch
from zoedge.bundle import Bundle, encode_manifest
from zoedge.manifest import Head, Manifest, Parameter, Port, Source
from zoedge.tensor_file import read_entries

RANK, ALPHA = 2, 8.0
SHAPES = {"fc": (8, 4), "mix": (8, 8)}  # (out, in)
LABELS = ("a", "b", "c")
LORA = ("fc.lora_A.weight", "fc.lora_B.weight", "mix.lora_A.weight", "mix.lora_B.weight")
DENSE = ("fc.weight", "fc.bias", "mix.weight", "classifier.weight", "classifier.bias")

X = Port(name="x", dtype="float32", shape=("batch", 4))
LABEL = Port(name="labels", dtype="int64", shape=("batch",))
LOGITS = Port(name="logits", dtype="float32", shape=("batch", 3))
OUTPUTS = (
    Port(name="loss", dtype="float32", shape=("batch",)),
    Port(name="weight", dtype="float32", shape=("batch",)),
    LOGITS,
    Port(name="features", dtype="float32", shape=("batch", 8)),
)
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "float16": TensorProto.FLOAT16}


def tensors(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random (weights, adapters); the B factors are zero."""
    rng = np.random.default_rng(seed)
    shapes = {
        "classifier.bias": (3,),
        "classifier.weight": (3, 8),
        "fc.bias": (8,),
        "fc.weight": (8, 4),
        "mix.weight": (8, 8),
    }
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    adapters = {
        "fc.lora_A.weight": rng.standard_normal((RANK, 4), np.float32),
        "fc.lora_B.weight": np.zeros((8, RANK), np.float32),
        "mix.lora_A.weight": rng.standard_normal((RANK, 8), np.float32),
        "mix.lora_B.weight": np.zeros((8, RANK), np.float32),
    }
    return weights, adapters


def tuned(names: tuple[str, ...], seed: int = 1) -> dict[str, np.ndarray]:
    """Random tuned values of the named tensors."""
    rng = np.random.default_rng(seed)
    weights, adapters = tensors()
    return {name: rng.standard_normal((weights | adapters)[name].shape, np.float32) for name in names}


def logits(x: np.ndarray, values: dict[str, np.ndarray], *, lora: bool = True) -> np.ndarray:
    """The network in float64 NumPy; ``values`` replace what the bundle holds."""
    weights, adapters = tensors()
    v = {name: value.astype(np.float64) for name, value in (weights | adapters | values).items()}
    scale = ALPHA / RANK if lora else 0.0

    def branch(h, name):
        return scale * (h @ v[f"{name}.lora_A.weight"].T) @ v[f"{name}.lora_B.weight"].T

    h = np.maximum(x @ v["fc.weight"].T + v["fc.bias"] + branch(x, "fc"), 0.0)
    features = h @ v["mix.weight"] + branch(h, "mix")
    return features @ v["classifier.weight"].T + v["classifier.bias"]


def hand_bundle(
    folder: Path,
    *,
    lora: bool = True,
    trainable: tuple[str, ...] = LORA,
    files: dict[str, bytes] | None = None,
    **changes,
) -> Bundle:
    """Write the bundle and open it; ``changes`` go into the manifest, ``files`` beside it."""
    folder.mkdir(parents=True)
    weights, adapters = tensors()
    save_file(weights, folder / "weights.safetensors", metadata={"format": "pt"})
    save_file(adapters, folder / "adapters.safetensors")
    write_graphs(folder, lora=lora, trainable=trainable)
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    return seal(folder, manifest(lora=lora, trainable=trainable, **changes))


def write_graphs(folder: Path, *, lora: bool, trainable: tuple[str, ...]) -> None:
    """Write the graphs for the tensors that lie in the folder."""
    onnx.save(_graph(folder, loss=False, lora=False, optional=()), folder / "model.onnx")
    onnx.save(_graph(folder, loss=True, lora=lora, optional=trainable), folder / "loss.onnx")
    if lora:
        optional = (*trainable, *LORA)
        onnx.save(_graph(folder, loss=False, lora=True, optional=optional), folder / "model_adapters.onnx")


def seal(folder: Path, content: Manifest) -> Bundle:
    """Write ``bundle.json`` over whatever lies in the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "bundle.json")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    fields = {name: getattr(content, name) for name in content.__struct_fields__} | {"files": digests}
    (folder / "bundle.json").write_bytes(encode_manifest(Manifest(**fields)))
    return Bundle.open(folder)


def manifest(*, lora: bool, trainable: tuple[str, ...], branches=None, **changes) -> Manifest:
    weights, adapters = tensors()
    rows = [_row(name, value, "weights.safetensors", trainable) for name, value in weights.items()]
    if lora:
        rows += [_row(name, value, "adapters.safetensors", trainable) for name, value in adapters.items()]
    own = tuple(
        LoraBranch(
            module=module,
            weight=f"{module}.weight",
            transposed=module == "mix",
            shape=SHAPES[module],
            a=f"{module}.lora_A.weight",
            b=f"{module}.lora_B.weight",
            rank=RANK,
            alpha=ALPHA,
        ).branch
        for module in ("fc", "mix")
    )
    fields = {
        "format": 1,
        "zoedge": "0.1.0",
        "task": "classification",
        "loss": "cross-entropy",
        "source": Source(kind="torch", name="Net"),
        "inputs": (X,),
        "targets": (LABEL,),
        "outputs": OUTPUTS,
        "model_inputs": (X,),
        "model_outputs": (LOGITS,),
        "parameters": tuple(rows),
        "branches": (own if branches is None else branches) if lora else (),
        "head": Head(weight="classifier.weight", bias="classifier.bias"),
        "labels": LABELS,
    }
    return Manifest(**(fields | changes))


def _row(name: str, value: np.ndarray, file: str, trainable: tuple[str, ...]) -> Parameter:
    group = "lora" if "lora" in name else "bias" if name.endswith("bias") else "mlp"
    if name.startswith("classifier"):
        group = "head"
    return Parameter(
        name=name,
        dtype=str(value.dtype),
        shape=value.shape,
        file=file,
        trainable=name in trainable,
        group=group,
        decay=not name.endswith("bias"),
    )


def _graph(folder: Path, *, loss: bool, lora: bool, optional: tuple[str, ...]) -> onnx.ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["fc"], transB=1)]
    nodes += [*_branch("x", "fc", "hidden")] if lora else [helper.make_node("Identity", ["fc"], ["hidden"])]
    nodes += [
        helper.make_node("Relu", ["hidden"], ["relu"]),
        helper.make_node("MatMul", ["relu", "mix.weight"], ["mix"]),
    ]
    nodes += (
        [*_branch("relu", "mix", "features")]
        if lora
        else [helper.make_node("Identity", ["mix"], ["features"])]
    )
    nodes.append(
        helper.make_node("Gemm", ["features", "classifier.weight", "classifier.bias"], ["logits"], transB=1)
    )
    inputs, outputs = [X], [LOGITS]
    if loss:
        nodes += _loss()
        inputs, outputs = [X, LABEL], list(OUTPUTS)
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0]),
    ]
    constants += [helper.make_tensor("scale", TensorProto.FLOAT, [], [ALPHA / RANK])]
    used = {name for node in nodes for name in node.input}
    initializers = [c for c in constants if c.name in used]
    for file in ("weights.safetensors", "adapters.safetensors"):
        initializers += [_external(n, e, file) for n, e in read_entries(folder / file).items() if n in used]
    given = [
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers if t.name in optional
    ]
    graph = helper.make_graph(
        nodes, "hand", [*map(_value, inputs), *given], list(map(_value, outputs)), initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _branch(x: str, name: str, out: str):
    yield helper.make_node("Gemm", [x, f"{name}.lora_A.weight"], [f"{name}_a"], transB=1)
    yield helper.make_node("Gemm", [f"{name}_a", f"{name}.lora_B.weight"], [f"{name}_b"], transB=1)
    yield helper.make_node("Mul", [f"{name}_b", "scale"], [f"{name}_scaled"])
    yield helper.make_node("Add", [name, f"{name}_scaled"], [out])


def _loss():
    return [
        helper.make_node("ReduceLogSumExp", ["logits", "one"], ["total"], keepdims=0),
        helper.make_node("Unsqueeze", ["labels", "one"], ["column"]),
        helper.make_node("GatherElements", ["logits", "column"], ["own"], axis=1),
        helper.make_node("Squeeze", ["own", "one"], ["own_flat"]),
        helper.make_node("Sub", ["total", "own_flat"], ["loss"]),
        helper.make_node("Shape", ["labels"], ["rows"]),
        helper.make_node("Expand", ["ones", "rows"], ["weight"]),
    ]


def _external(name: str, entry, file: str) -> TensorProto:
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=entry.shape, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", file), ("offset", str(entry.offset)), ("length", str(entry.size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _value(port: Port):
    return helper.make_tensor_value_info(port.name, _TYPES[port.dtype], list(port.shape))
