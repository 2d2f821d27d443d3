"""Prefixes in exported graphs: what torch computes where they are its past keys and values."""

import numpy as np
import onnxruntime as ort
import pytest

from tests.builders import tiny
from tests.builders.models import normal
from tests.builders.networks import mlp
from zoedge.adapters.prefix import PrefixBranch
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.names import in_graph
from zoedge.tensor_file import map_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = 3
MODELS = ("tiny_opt", "tiny_gpt2", "tiny_llama")


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """(bundle, torch's model)"""
    folder = tmp_path_factory.mktemp(request.param)
    source = getattr(tiny, request.param)(folder / "source")
    asked = {"task": "text-generation", "train": ("prefix",), "prefix_tokens": TOKENS}
    bundle = to_bundle(source, folder / "bundle", **asked)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    return bundle, loaded.eval()


def batch(seed=0, width=9):
    ids = np.random.default_rng(seed).integers(10, 60, (3, width)).astype(np.int64)
    mask = (np.arange(width) < np.array([width, 4, 7])[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def prefixes(bundle):
    """Random keys and values of each layer by name, and in the order of layers."""
    layers = [PrefixBranch.of(branch) for branch in bundle.manifest.branches]
    drawn = [
        tuple(normal((p.heads, p.tokens, p.width), 2 * k + part) for part in range(2))
        for k, p in enumerate(layers)
    ]
    return {
        n: a
        for p, pair in zip(layers, drawn, strict=True)
        for n, a in zip((p.keys, p.values), pair, strict=True)
    }, drawn


def by_torch(torch_model, given, drawn):
    rows = len(given["input_ids"])
    past = tuple(tuple(torch.from_numpy(a).expand(rows, *a.shape).clone() for a in pair) for pair in drawn)
    ones = torch.ones((rows, TOKENS), dtype=torch.int64)
    with torch.no_grad():
        return torch_model(
            input_ids=torch.from_numpy(given["input_ids"]),
            attention_mask=torch.cat([ones, torch.from_numpy(given["attention_mask"])], dim=1),
            past_key_values=transformers.DynamicCache.from_legacy_cache(past),
        ).logits.numpy()


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_the_deployed_graph_is_torchs_model_with_past_keys_and_values(made):
    bundle, torch_model = made
    given, (values, drawn) = batch(), prefixes(bundle)
    got = session(bundle.path("model_adapters.onnx")).run(["logits"], given | values)[0]
    wanted, seen = by_torch(torch_model, given, drawn), given["attention_mask"] == 1
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got[seen], wanted[seen], rtol=1e-4, atol=2e-4)
    without = session(bundle.path("model.onnx")).run(["logits"], given)[0]
    assert np.abs(got - without)[seen].max() > 1e-2


def test_the_loss_graph_reads_labels_at_the_texts_own_positions(made):
    bundle, torch_model = made
    given, (values, drawn) = batch(seed=3), prefixes(bundle)
    positions = np.array([[8, 2], [3, 1], [6, 0]], np.int64)
    logits = by_torch(torch_model, given, drawn).astype(np.float64)
    logits = np.take_along_axis(logits, positions[:, :, None], axis=1)
    labels = np.random.default_rng(5).integers(0, logits.shape[-1], logits.shape[:-1])
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(likely, labels[..., None], axis=-1)[..., 0].mean(1)
    graph = session(bundle.path("loss.onnx"))
    fed = given | {in_graph("label_positions"): positions, in_graph("labels"): labels}
    (loss,) = graph.run([in_graph("loss")], fed | values)
    np.testing.assert_allclose(loss, wanted, rtol=1e-4, atol=2e-4)


def test_it_starts_from_the_activations_of_ordinary_tokens(made):
    bundle, torch_model = made
    first = map_tensors(bundle.path("adapters.safetensors"))
    branch = bundle.manifest.branches[0]
    filler = int(branch.settings["filler"])
    with torch.no_grad():
        cache = torch_model(torch.tensor([[filler]]), use_cache=True).past_key_values
    keys, values = (np.asarray(each[0].numpy()) for each in cache.to_legacy_cache()[0])
    np.testing.assert_allclose(first[branch.tensors["keys"]][:, :1], keys, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first[branch.tensors["values"]][:, :1], values, rtol=1e-4, atol=1e-5)
    assert len(bundle.manifest.branches) == 2
    assert bundle.manifest.text.max_length == tiny.POSITIONS - TOKENS
    assert all(each.unmergeable for each in bundle.manifest.branches)


def test_what_comes_before_the_first_keys_is_computed_once(made):
    """Of the first layer only, as every later one sees its prefix."""
    bundle, _ = made
    assert 1 <= len(bundle.manifest.stages.crossing) <= 3


def test_a_model_that_reads_both_ways_is_refused_with_what_works(tmp_path):
    source = tiny.tiny_bert(tmp_path / "source")
    with pytest.raises(InputError) as error:
        to_bundle(source, tmp_path / "bundle", train=("prefix",))
    assert str(error.value) == (
        "a prefix needs a model that reads texts from the left, and here what comes first sees what follows: use "
        "--train prompt, --train lora or --train full"
    )


def test_a_model_without_attention_is_refused(tmp_path):
    mlp(tmp_path / "mlp.onnx")
    with pytest.raises(InputError, match="--train prefix puts tokens before texts, and the model reads none"):
        to_bundle(tmp_path / "mlp.onnx", tmp_path / "bundle", task="classification", train=("prefix",))


@pytest.mark.parametrize("build", MODELS)
def test_other_forms_of_the_same_attention_are_found(tmp_path, build):
    """optimum's graphs turn keys at once, and shapes come together from single numbers."""
    pytest.importorskip("optimum.exporters.onnx")
    source = getattr(tiny, build)(tmp_path / "source")
    bundle = to_bundle(
        source, tmp_path / "bundle", task="text-generation", train=("prefix",), exporter="optimum"
    )
    assert [branch.kind for branch in bundle.manifest.branches] == ["prefix"] * 2


@pytest.mark.parametrize("build", ["tiny_opt", "tiny_gpt2"])
def test_rounded_matrices_take_prefixes(tmp_path, build):
    source = getattr(tiny, build)(tmp_path / "source")
    bundle = to_bundle(
        source, tmp_path / "bundle", task="text-generation", train=("prefix",), quantize="int8"
    )
    assert len(bundle.manifest.branches) == 2
    assert len(bundle.manifest.no_floats_of(())) == 2  # rounded, and still nothing that floats could hold


def test_half_precision_layers_keep_float32_prefixes(tmp_path):
    source = tiny.tiny_llama(tmp_path / "source")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(source)
    loaded.half().save_pretrained(source)
    bundle = to_bundle(source, tmp_path / "bundle", task="text-generation", train=("prefix",))
    assert {p.dtype for p in bundle.manifest.trainable} == {"float32"}
