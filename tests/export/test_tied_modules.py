"""Modules of torch that share a matrix: what their branches are called, and where those end up."""

import json
import warnings

import numpy as np
import onnxruntime as ort
import pytest

from tests.zoedge.commands import run
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_adapter_files, write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch, transformers and peft say about themselves
IDS = np.array([[5, 9, 14, 20, 7, 8], [11, 6, 30, 12, 13, 9]], np.int64)
TEXT = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}


def tuned(bundle):
    rng = np.random.default_rng(0)
    values = load_buffers(bundle, Cpu())
    return {name: (v + 0.3 * rng.standard_normal(v.shape)).astype(np.float32) for name, v in values.items()}


def passes(bundle, values, given, output):
    buffers = load_buffers(bundle, Cpu())
    for name, value in values.items():
        np.copyto(buffers[name], value)
    return Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given, [output])[output]


def stock(folder, inputs):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def with_peft(base, folder, *inputs, **named):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = peft.PeftModel.from_pretrained(base, folder).eval()(*inputs, **named)
    return (made if isinstance(made, torch.Tensor) else made.logits).numpy()


@pytest.fixture(scope="module")
def head(tiny_opt, tmp_path_factory):
    """OPT with a branch beside its head, whose matrix is the embedding's, and beside others."""
    told = []
    folder = tmp_path_factory.mktemp("tied") / "bundle"
    bundle = to_bundle(tiny_opt, folder, target_modules=["lm_head", "q_proj"], say=told.append)
    return bundle, told


def test_a_tied_head_is_called_by_its_own_name_and_stays_beside_the_embedding(head, tmp_path):
    bundle, told = head
    *others, branch = bundle.manifest.branches
    assert (branch.module, branch.weight) == ("lm_head", "model.decoder.embed_tokens.weight")
    assert (branch.tensors["a"], branch.apart, branch.also) == (
        "lm_head.lora_A.weight",
        "Gather reads, too",
        (),
    )
    assert not any(each.apart for each in others)
    said = "lm_head beside a matrix that Gather reads, too"
    assert told == [
        f"a merged model.onnx keeps branches as products: {said}, so merging writes no model.safetensors"
    ]
    assert any(line == f"kept apart  {said}" for line in run("inspect", bundle.folder).output.splitlines())
    values = tuned(bundle)
    write_merged(bundle, values, tmp_path / "merged")
    assert not (tmp_path / "merged" / "model.safetensors").exists()  # transformers would tie the head again
    logits = stock(tmp_path / "merged", TEXT)
    given = {**TEXT, "label_positions": np.array([[1, 2], [3, 0]]), "labels": np.array([[9, 8], [7, 6]])}
    losses = passes(bundle, values, given, "loss")
    own = np.take_along_axis(logits, given["label_positions"][:, :, None], 1).astype(np.float64)
    log_p = own - np.log(np.exp(own).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(log_p, given["labels"][:, :, None], 2).mean((1, 2))
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)


def test_peft_puts_it_beside_the_head_alone(head, tiny_opt, tmp_path):
    bundle, _ = head
    values = tuned(bundle)
    write_merged(bundle, values, tmp_path / "merged")
    assert write_adapter_files(bundle, values, tmp_path / "peft") == []
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_opt)
    got = with_peft(base, tmp_path / "peft", **{n: torch.from_numpy(array) for n, array in TEXT.items()})
    np.testing.assert_allclose(got, stock(tmp_path / "merged", TEXT), rtol=1e-3, atol=1e-3)


def test_the_embedding_s_name_is_no_linear_layer_s(tiny_opt, tmp_path):
    with pytest.raises(InputError, match=r"embed_tokens names no linear layer \(convolutions and embeddings"):
        to_bundle(tiny_opt, tmp_path / "bundle", target_modules=["embed_tokens"])


class Words(torch.nn.Module):
    """Rows of an embedding, and a product with the same matrix: a layer of its own, before or after, or none."""

    def __init__(self, head):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if head == "before":
                self.out = torch.nn.Linear(8, 16, bias=False)
            self.rows = torch.nn.Embedding(16, 8)
            if head == "after":
                self.out = torch.nn.Linear(8, 16, bias=False)
        if head != "none":
            self.rows.weight = self.out.weight
        self.head = head

    def forward(self, ids):
        h = torch.tanh(self.rows(ids).mean(1))
        return h @ self.rows.weight.T if self.head == "none" else self.out(h)


@pytest.mark.parametrize("head", ["before", "after", "none"])
def test_peft_gets_the_branch_of_a_layer_and_never_an_embedding(head, tmp_path):
    ids = np.random.default_rng(1).integers(0, 16, (5, 6))
    name = "rows" if head == "none" else "out"
    options = {"task": "classification", "example_inputs": {"ids": ids}, "target_modules": [name]}
    bundle = to_bundle(Words(head).eval(), tmp_path / "bundle", **options)
    (branch,) = bundle.manifest.branches
    assert (branch.module, branch.apart, branch.also) == (name, "Gather reads, too", ())
    values = tuned(bundle)
    write_merged(bundle, values, tmp_path / "merged")
    merged = stock(tmp_path / "merged", {"ids": ids})
    ours = passes(bundle, values, {"ids": ids, "labels": np.arange(5)}, "logits")
    np.testing.assert_allclose(merged, ours, rtol=1e-4, atol=1e-5)
    if head == "none":
        with pytest.raises(InputError, match=r"^PEFT can't put the adapter of rows .* NAME\.onnx_adapter or"):
            write_adapter_files(bundle, values, tmp_path / "peft")
        return
    write_adapter_files(bundle, values, tmp_path / "peft")
    got = with_peft(Words(head), tmp_path / "peft", torch.from_numpy(ids))
    np.testing.assert_allclose(got, ours, rtol=1e-4, atol=1e-4)


class Twice(torch.nn.Module):
    """Two layers of one matrix; with ``turned`` a third place that reads it the other way."""

    def __init__(self, *, turned=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one, self.two, self.last = (torch.nn.Linear(8, n) for n in (8, 8, 3))
        self.two.weight = self.one.weight
        self.turned = turned

    def forward(self, x):
        h = torch.tanh(self.two(torch.tanh(self.one(x))))
        return self.last(torch.tanh(h @ self.one.weight) if self.turned else h)


@pytest.mark.parametrize("turned", [False, True])
def test_layers_that_share_a_matrix_share_the_branch(turned, tmp_path):
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    net = Twice(turned=turned).eval()
    bundle = to_bundle(
        net, tmp_path / "bundle", task="classification", example_inputs={"x": x}, target_modules=["one"]
    )
    (branch,) = bundle.manifest.branches
    assert (branch.module, branch.also) == ("one", ("two",))
    assert branch.apart == ("MatMul reads, too" if turned else "")
    values = tuned(bundle)
    write_merged(bundle, values, tmp_path / "merged")
    ours = passes(bundle, values, {"x": x, "labels": np.arange(5) % 3}, "logits")
    np.testing.assert_allclose(stock(tmp_path / "merged", {"x": x}), ours, rtol=1e-4, atol=1e-5)
    write_adapter_files(bundle, values, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["one", "two"]
    got = with_peft(Twice(turned=turned), tmp_path / "peft", torch.from_numpy(x))
    np.testing.assert_allclose(got, ours, rtol=1e-4, atol=1e-4)
