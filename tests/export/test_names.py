"""Sources whose tensors, nodes, inputs and outputs are called like what export adds."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import zoedge
from tests.builders.models import INT64, model, node, normal, save, value
from zoedge import InputError
from zoedge.adapters import lora_branches
from zoedge.bundle import Bundle
from zoedge.export import to_bundle
from zoedge.names import OWN
from zoedge.runtime.run.run_folder import Run

X = normal((6, 4), 0, 1.0)
QUICK = zoedge.TuneOptions(steps=40, method="mezo", lr=0.001, batch_size=4, eval_every=0, threads=1, seed=1)


def chain(names, *, x="x", out="y"):
    """A product and a Relu for each name, which is that of its matrix; values have the names in reversed order."""
    nodes, tensors, at = [], {}, x
    for number, (name, made) in enumerate(zip(names, [*reversed(names[:-1]), ""], strict=True)):
        made = f"{made}/value" if made else out
        nodes.append(node("MatMul", f"{at} {name}", made, name=f"zoedge/{name}/node"))
        tensors[name] = normal((4, 4), number, 0.7)
        at = made
    return model(nodes, [value(x, ["n", 4])], [value(out, ["n", 4])], tensors)


def falls(tmp_path, bundle, arrays):
    """Tune on arrays, evaluate before and after, merge; return the merged model's session."""
    np.savez(tmp_path / "d.npz", **arrays)
    zoedge.tune(bundle.folder, tmp_path / "d.npz", tmp_path / "run", QUICK)
    after = zoedge.evaluate(tmp_path / "run", tmp_path / "d.npz")["loss"]
    zoedge.merge(bundle, Run.open(tmp_path / "run").weights("last"), tmp_path / "merged")
    return after, ort.InferenceSession(tmp_path / "merged" / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("train", ["full", "lora", "head"])
def test_tensors_called_like_ours(tmp_path, train):
    proto = chain(
        ["loss", "weight", "labels", "logits", "features", "predict", "predictions", "label_positions"]
    )
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=(train,))
    names = {p.name for p in bundle.manifest.parameters}
    assert set(OWN) <= names
    start = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": X})[
        0
    ]
    wanted = start + normal(start.shape, 9, 0.3)
    before = float(np.square(start - wanted).mean())
    after, merged = falls(tmp_path, bundle, {"x": X, "y": wanted})
    assert 0.5 * before < after < 2.0 * before != after
    got = float(np.square(merged.run(None, {"x": X})[0] - wanted).mean())
    np.testing.assert_allclose(got, after, rtol=1e-4)


def test_inputs_and_outputs_called_like_ours(tmp_path):
    nodes = [
        node("MatMul", "loss w", "a"),
        node("Cast", "labels", "b", to=1),
        node("Mul", "b v", "c"),
        node("Add", "a c", "features"),
        node("Identity", "features", "weight"),
    ]
    inputs = [value("loss", ["n", 4]), value("labels", ["n", 1], INT64)]
    tensors = {"w": normal((4, 3), 1), "v": normal((1, 3), 2)}
    proto = model(nodes, inputs, [value("weight", ["n", 3])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    given = {"loss": X, "labels": np.arange(6).reshape(6, 1)}
    wanted = X @ tensors["w"] + given["labels"] * tensors["v"]
    np.savez(tmp_path / "d.npz", **given, target=wanted)
    zoedge.tune(bundle.folder, tmp_path / "d.npz", tmp_path / "run", QUICK)
    np.savez(tmp_path / "e.npz", **given, target=wanted + 2.0)
    assert zoedge.evaluate(bundle.folder, tmp_path / "d.npz")["mse"] < 1e-9
    np.testing.assert_allclose(zoedge.evaluate(bundle.folder, tmp_path / "e.npz")["mse"], 4.0, rtol=1e-5)


def test_tensors_called_like_lora_factors(tmp_path):
    """A source that holds branches of its own: theirs stay frozen, ours get other names."""
    tensors = {
        "fc.weight": normal((4, 4), 1),
        "fc.lora_A.weight": normal((4, 2), 2),
        "fc.lora_B.weight": normal((2, 4), 3),
    }
    nodes = [
        node("MatMul", "x fc.weight", "base"),
        node("MatMul", "x fc.lora_A.weight", "narrow"),
        node("MatMul", "narrow fc.lora_B.weight", "delta"),
        node("Add", "base delta", "y"),
    ]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("lora",), target_modules=("fc",)
    )
    names = [p.name for p in bundle.manifest.parameters]
    assert len(names) == len(set(names)) == 5
    (branch,) = lora_branches(bundle.manifest)
    assert {branch.a, branch.b}.isdisjoint(tensors)
    wanted = X @ (tensors["fc.weight"] + tensors["fc.lora_A.weight"] @ tensors["fc.lora_B.weight"])
    np.savez(tmp_path / "d.npz", x=X, y=wanted)
    assert zoedge.evaluate(bundle.folder, tmp_path / "d.npz")["mse"] < 1e-9
    after, merged = falls(tmp_path, bundle, {"x": X, "y": wanted + 1.0})
    np.testing.assert_allclose(
        np.square(merged.run(None, {"x": X})[0] - wanted - 1.0).mean(), after, rtol=1e-4
    )
    assert after < 1.0


class Bare(nn.Module):
    """Parameters called like ours, and one output called like none of them."""

    def __init__(self):
        super().__init__()
        for number, name in enumerate(OWN):
            self.register_parameter(name, nn.Parameter(torch.from_numpy(normal((4, 4), number, 0.6))))

    def forward(self, x):
        for name in OWN:
            x = x @ getattr(self, name)
        return x


@pytest.mark.parametrize("module", [nn.Linear(4, 4), Bare()], ids=["linear", "bare"])
def test_a_torch_module_called_like_ours(tmp_path, module):
    bundle = to_bundle(
        module,
        tmp_path / "b",
        task="regression",
        train=("full",),
        example_inputs={_argument(module): torch.from_numpy(X)},
    )
    assert {p.name for p in bundle.manifest.trainable} == set(dict(module.named_parameters()))
    wanted = module(torch.from_numpy(X)).detach().numpy()
    np.savez(tmp_path / "d.npz", **{_argument(module): X}, y=wanted + 1.0)
    np.testing.assert_allclose(zoedge.evaluate(bundle.folder, tmp_path / "d.npz")["mse"], 1.0, rtol=1e-4)
    after, merged = falls(tmp_path, bundle, {_argument(module): X, "y": wanted + 1.0})
    assert after < 1.0
    (out,) = merged.get_outputs()
    got = merged.run([out.name], {_argument(module): X})[0]
    np.testing.assert_allclose(np.square(got - wanted - 1.0).mean(), after, rtol=1e-4)


def _argument(module):
    return "input" if isinstance(module, nn.Linear) else "x"


def test_what_one_of_our_graphs_is_called_is_refused(tmp_path):
    proto = model(
        [node("MatMul", "x zoedge/loss", "y")],
        [value("x", ["n", 4])],
        [value("y", ["n", 2])],
        {"zoedge/loss": normal((4, 2), 1)},
    )
    with pytest.raises(
        InputError, match="a tensor named 'zoedge/loss', a name that zoedge gives to what it adds"
    ):
        to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))


def test_a_bundle_of_the_first_format_opens_and_runs(tmp_path):
    from tests.builders.hand_bundle import hand_bundle

    bundle = hand_bundle(tmp_path / "b")  # whose graphs have the plain names inside
    assert bundle.manifest.format == 1
    rows = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=rows, label=np.arange(12) % 3)
    zoedge.tune(bundle.folder, tmp_path / "d.npz", tmp_path / "run", QUICK)
    assert 0.0 < zoedge.evaluate(tmp_path / "run", tmp_path / "d.npz")["loss"] < 10.0
    assert Bundle.open(bundle.folder).manifest.trainable


def test_values_called_like_what_branches_see(tmp_path):
    """The directions of a branch come from outputs named MODULE:x and MODULE:y."""
    nodes = [
        node("Relu", "x", "fc:x"),
        node("MatMul", "fc:x fc.weight", "fc:y"),
        node("MatMul", "fc:y head", "y"),
    ]
    tensors = {"fc.weight": normal((4, 4), 1), "head": normal((4, 4), 2)}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse")
    assert [branch.module for branch in bundle.manifest.branches] == ["fc"]
    wanted = np.maximum(X, 0) @ tensors["fc.weight"] @ tensors["head"] + 1.0
    after, merged = falls(tmp_path, bundle, {"x": X, "y": wanted})
    np.testing.assert_allclose(np.square(merged.run(None, {"x": X})[0] - wanted).mean(), after, rtol=1e-4)
