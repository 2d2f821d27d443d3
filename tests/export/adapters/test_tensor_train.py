"""Tensor-train branches: cores multiplied out in the graph are the adapter that torch computes from them."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from tests.builders import tiny
from tests.builders.models import model, node, normal, run, value
from zoedge.adapters.tensor_train import TensorTrainBranch, TensorTrainOptions
from zoedge.export import to_bundle
from zoedge.export.adapters.base import BranchSettings, surgery_of
from zoedge.export.adapters.branches import StackedBranches, add_branches, initial_factors
from zoedge.export.adapters.targets import choose_targets
from zoedge.export.surgery.graph import Graph

torch = pytest.importorskip("torch")

KIND = "tensor-train"
# widths of the layer, bottleneck, rank: a published map whose rows end inside a core among them
SHAPES = {
    "small": (12, 8, 6, 2),
    "published": (96, 768, 64, 5),
    "across": (40, 1024, 64, 3),
    "one": (1, 3, 2, 4),
}


def layer(width, out):
    tensors = {"w": normal((width, out), 1) / np.sqrt(width, dtype=np.float32), "b": normal(out, 2)}
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "y")]
    return model(nodes, [value("x", ["n", width])], [value("y", ["n", out])], tensors)


def branched(proto, **settings):
    """Return (runnable model with random tensors, the branch, those tensors)."""
    graph = Graph(proto)
    asked = BranchSettings(TensorTrainOptions(**settings), ("*",), KIND)
    branches = add_branches(graph, choose_targets(graph, asked, graph.reaching(["y"]), ()), asked)
    first = initial_factors(branches)
    tuned = {n: a + 0.3 * normal(a.shape, i + 50) for i, (n, a) in enumerate(first.items())}
    done = graph.finish(list(proto.graph.input), [value("y", None)])
    for tensor in done.graph.initializer:
        if tensor.name in tuned:
            tensor.CopyFrom(numpy_helper.from_array(tuned[tensor.name], tensor.name))
    return done, branches[0], tuned


def whole(train, side, tuned):
    """The map [rows, columns] by its definition: an element is the product of a slice of each core."""
    cores = train.maps[side]
    tensors = [
        torch.from_numpy(tuned[name].astype(np.float64)).reshape(left, size, right)
        for name, size, left, right in zip(
            train.cores(side), cores.sizes, cores.ranks[:-1], cores.ranks[1:], strict=True
        )
    ]
    product = tensors[0]
    for core in tensors[1:]:
        product = torch.tensordot(product, core, dims=1)
    return product.reshape(cores.rows, cores.columns)


def by_torch(x, proto, branch, tuned):
    tensors = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).astype(np.float64)) for t in proto.graph.initializer
    }
    train, x = TensorTrainBranch.of(branch), torch.from_numpy(x.astype(np.float64))
    product = x @ tensors["w"]
    down, up = whole(train, "down", tuned), whole(train, "up", tuned)
    if not train.relu:
        return product + x @ down @ up + tensors["b"]
    biases = {
        side: torch.from_numpy(tuned[branch.tensors[f"{side}.bias"]].astype(np.float64))
        for side in train.maps
    }
    narrow = torch.relu(product @ down + biases["down"])
    return product + narrow @ up + biases["up"] + tensors["b"]


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_nodes_are_the_adapter_that_torch_computes(shape, activation):
    width, out, bottleneck, rank = SHAPES[shape]
    proto = layer(width, out)
    done, branch, tuned = branched(proto, tt_bottleneck=bottleneck, tt_rank=rank, tt_activation=activation)
    x = normal((5, width), 3)
    wanted = by_torch(x, proto, branch, tuned).numpy()
    np.testing.assert_allclose(run(done, {"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted - run(proto, {"x": x})["y"]).max() > 0.02  # the branch does something


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_points_stacked_are_points_one_by_one(shape, activation):
    width, out, bottleneck, rank = SHAPES[shape]
    proto = layer(width, out)
    found = [
        branched(proto, tt_bottleneck=bottleneck, tt_rank=rank, tt_activation=activation) for _ in range(2)
    ]
    tuned = [{n: a + 0.2 * k for n, a in found[k][2].items()} for k in range(2)]
    graph = Graph(proto)
    targets = choose_targets(graph, BranchSettings(targets=("*",)), graph.reaching(["y"]), ())
    inputs = StackedBranches(graph, [found[0][1]]).add(targets)
    stacked = graph.finish([*proto.graph.input, *inputs], [value("y", None)])
    x = normal((3, width), 3)
    given = {n: np.stack([t[n] for t in tuned]) for n in tuned[0]}
    got = run(stacked, {"x": np.concatenate([x, x]), **given})["y"]
    wanted = np.concatenate([by_torch(x, proto, found[0][1], t).numpy() for t in tuned])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    # a tensor that is the same at every point is given once
    last = found[0][1].tensors["up.0"]
    once = run(stacked, {"x": np.concatenate([x, x]), **given, last: given[last][:1]})["y"]
    alike = [t | {last: tuned[0][last]} for t in tuned]
    wanted = np.concatenate([by_torch(x, proto, found[0][1], t).numpy() for t in alike])
    np.testing.assert_allclose(once, wanted, rtol=1e-4, atol=1e-4)


def test_cores_start_as_the_papers_but_for_what_leaves_the_model_unchanged():
    proto = layer(96, 768)
    _, branch, _ = branched(proto, tt_rank=5)
    first, train = surgery_of(KIND).initial(branch), TensorTrainBranch.of(branch)
    assert {n: (v.shape, v.dtype) for n, v in first.items()} == {
        branch.tensors[part]: (shape, np.float32) for part, shape in train.shapes.items()
    }
    zero = {part for part, name in branch.tensors.items() if not first[name].any()}
    assert zero == {"up.4", "down.bias", "up.bias"}
    down = whole(train, "down", first).numpy()
    assert down.std() == pytest.approx((768 + 64) ** -0.5, rel=0.35)  # few numbers decide it
    spread = (768 + 64) ** (-0.5 / 5) * 5**-0.5
    assert first[branch.tensors["down.1"]].std() == pytest.approx(spread, rel=0.2)
    assert first[branch.tensors["down.4"]].std() == pytest.approx(spread * 5**0.5, rel=0.4)
    again = surgery_of(KIND).initial(branch)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    x = normal((4, 96), 8)
    started, _, _ = branched(proto, tt_rank=5)
    for tensor in started.graph.initializer:
        if tensor.name in first:
            tensor.CopyFrom(numpy_helper.from_array(first[tensor.name], tensor.name))
    np.testing.assert_array_equal(run(started, {"x": x})["y"], run(proto, {"x": x})["y"])


def test_half_precision_layers_keep_float32_cores():
    tensors = {"w": normal((6, 8), 1).astype(np.float16)}
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h w", "g"),
        node("Cast", "g", "y", to=TensorProto.FLOAT),
    ]
    proto = model(nodes, [value("x", ["n", 6])], [value("y", ["n", 8])], tensors)
    for activation in ("relu", "none"):
        done, branch, tuned = branched(proto, tt_bottleneck=4, tt_rank=2, tt_activation=activation)
        assert all(array.dtype == np.float32 for array in tuned.values())
        plain = model([node("MatMul", "x w", "y")], [value("x", ["n", 6])], [], {**tensors, "b": np.zeros(8)})
        x = normal((3, 6), 3)
        wanted = by_torch(x, plain, branch, tuned).numpy()
        np.testing.assert_allclose(run(done, {"x": x})["y"], wanted, atol=3e-2)


@pytest.mark.parametrize(
    ("build", "task", "modules"),
    [
        ("tiny_bert", None, ["attention.output.dense", "output.dense"]),
        ("tiny_opt", "text-generation", ["fc2"]),
        ("tiny_llama", "text-generation", ["mlp.down_proj"]),
        ("tiny_gpt2", "text-generation", ["attn.c_proj", "mlp.c_proj"]),
    ],
)
def test_branches_lie_where_the_papers_put_them(tmp_path, build, task, modules):
    told = []
    bundle = to_bundle(
        getattr(tiny, build)(tmp_path / "source"),
        tmp_path / "bundle",
        task=task,
        train=(KIND,),
        say=told.append,
    )
    found = [branch.module for branch in bundle.manifest.branches]
    assert len(found) == 2 * len(modules)  # of both layers
    assert all(any(module.endswith(end) for end in modules) for module in found)
    assert all(branch.unmergeable for branch in bundle.manifest.branches)
    assert len(told) == 1
    assert told[0].endswith(
        "beside a matrix that an adapter with an activation inside can't be added to, so merging writes no "
        "model.safetensors"
    )
    biases = [p for p in bundle.manifest.trainable if p.name.endswith("bias")]
    assert len(biases) == 2 * len(found)
    assert not any(p.decay for p in biases)


def test_named_modules_get_theirs(tmp_path):
    bundle = to_bundle(
        tiny.tiny_bert(tmp_path / "source"),
        tmp_path / "bundle",
        train=(KIND,),
        target_modules=("*query",),
        tt_rank=2,
        tt_bottleneck=4,
        tt_activation="none",
    )
    assert [branch.module.rpartition(".")[2] for branch in bundle.manifest.branches] == ["query", "query"]
    assert bundle.manifest.branches[0].settings == {"rank": 2, "bottleneck": 4, "relu": 0}
    assert not bundle.manifest.kept_apart


def test_the_graph_has_few_nodes_for_each_branch():
    proto = layer(96, 768)
    done, _, _ = branched(proto)
    assert len(done.graph.node) - len(proto.graph.node) == 20
    assert {n.op_type for n in done.graph.node} == {"MatMul", "Reshape", "Add", "Relu"}
