"""Prompts in exported graphs: what torch computes where it is given the prompt as embeddings before a text's own."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.onnx_ml_pb2 import TensorProto

from tests.builders import tiny
from tests.builders.models import mlp, model, node, normal, save, value
from zoedge.adapters.prompt import PromptBranch
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.longer import find_lookup, lengthen
from zoedge.names import in_graph
from zoedge.tensor_file import map_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = 4
MODELS = {
    "tiny_opt": ("AutoModelForCausalLM", "text-generation"),
    "tiny_gpt2": ("AutoModelForCausalLM", "text-generation"),
    "tiny_llama": ("AutoModelForCausalLM", "text-generation"),
    "tiny_bert_mlm": ("AutoModelForMaskedLM", None),
    "tiny_bert": ("AutoModelForSequenceClassification", None),
    "tiny_roberta": ("AutoModelForSequenceClassification", None),
}


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """(bundle, torch's model, whether it gives logits for each token)"""
    folder = tmp_path_factory.mktemp(request.param)
    auto, task = MODELS[request.param]
    source = getattr(tiny, request.param)(folder / "source")
    bundle = to_bundle(source, folder / "bundle", task=task, train=("prompt",), prompt_tokens=TOKENS)
    torch_model = getattr(transformers, auto).from_pretrained(source, attn_implementation="eager").eval()
    return bundle, torch_model, "Classification" not in auto


def batch(seed=0, width=9):
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, 60, (3, width)).astype(np.int64)
    mask = (np.arange(width) < np.array([width, 4, 7])[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (np.arange(width) > 2) * mask}


def fitting(session, given):
    return {i.name: given[i.name] for i in session.get_inputs() if i.name in given}


def prompt(bundle, seed=1):
    branch = PromptBranch.of(bundle.manifest.branches[0])
    return {branch.rows: normal((branch.tokens, branch.width), seed)}


def by_torch(torch_model, given, rows):
    """Logits with ``rows`` before each text's embeddings."""
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    own = torch_model.get_input_embeddings()(tensors["input_ids"])
    count = len(own)
    front = torch.from_numpy(rows).expand(count, *rows.shape)
    ones, zeros = (f((count, len(rows)), dtype=torch.int64) for f in (torch.ones, torch.zeros))
    asked = {
        "inputs_embeds": torch.cat([front, own], dim=1),
        "attention_mask": torch.cat([ones, tensors["attention_mask"]], dim=1),
    }
    if torch_model.config.model_type == "bert":
        asked["token_type_ids"] = torch.cat([zeros, tensors["token_type_ids"]], dim=1)
    with torch.no_grad():
        return torch_model(**asked).logits.numpy()


def test_the_deployed_graph_is_torchs_model_with_the_prompt_before_each_text(made):
    bundle, torch_model, by_token = made
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        bundle.path("model_adapters.onnx"), options, providers=["CPUExecutionProvider"]
    )
    given, values = batch(), prompt(bundle)
    (rows,) = values.values()
    got = session.run(["logits"], {**fitting(session, given), **values})[0]
    wanted = by_torch(torch_model, given, rows)
    if by_token:
        assert got.shape[1] == 9
        seen = given["attention_mask"] == 1
        np.testing.assert_allclose(got[seen], wanted[:, TOKENS:][seen], rtol=1e-4, atol=2e-4)
    else:
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-4)
    plain = ort.InferenceSession(bundle.path("model.onnx"), options, providers=["CPUExecutionProvider"])
    without = plain.run(["logits"], fitting(plain, given))[0]
    assert np.abs(got - without).max() > 1e-2


def test_the_loss_graph_reads_labels_at_the_texts_own_positions(made):
    bundle, torch_model, by_token = made
    given, values = batch(seed=3), prompt(bundle, seed=4)
    (rows,) = values.values()
    logits = by_torch(torch_model, given, rows).astype(np.float64)
    rng = np.random.default_rng(5)
    if by_token:
        positions = np.array([[8, 2], [3, 1], [6, 0]], np.int64)
        logits = np.take_along_axis(logits, positions[:, :, None] + TOKENS, axis=1)
        given |= {"label_positions": positions}
    labels = rng.integers(0, logits.shape[-1], logits.shape[:-1])
    logits -= logits.max(-1, keepdims=True)
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(likely, labels[..., None], axis=-1)[..., 0].reshape(3, -1).mean(1)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(bundle.path("loss.onnx"), options, providers=["CPUExecutionProvider"])
    named = {**given, "labels": labels}
    inputs = {port.name for port in (*bundle.manifest.inputs, *bundle.manifest.targets)}
    taken = {i.name for i in session.get_inputs()}
    fed = {in_graph(n) if in_graph(n) in taken else n: a for n, a in named.items() if n in inputs}
    (loss,) = session.run([in_graph("loss")], {**fed, **values})
    np.testing.assert_allclose(loss, wanted, rtol=1e-4, atol=2e-4)


def test_it_starts_as_embeddings_of_ordinary_tokens_and_leaves_texts_room(made):
    bundle, torch_model, _ = made
    branch = bundle.manifest.branches[0]
    first = map_tensors(bundle.path("adapters.safetensors"))[branch.tensors["rows"]]
    table = torch_model.get_input_embeddings().weight.detach().numpy()
    found = [np.flatnonzero((table == row).all(1)) for row in first]
    assert first.shape == (TOKENS, table.shape[1])
    assert all(len(ids) >= 1 for ids in found)
    assert branch.settings["filler"] in found[0]
    assert branch.settings["filler"] != bundle.manifest.text.pad_id
    assert bundle.manifest.text.max_length == tiny.POSITIONS - TOKENS
    assert branch.unmergeable
    assert bundle.manifest.stages is not None  # several prompts can share a pass


def test_a_file_beside_its_tokenizer_takes_one_too(tmp_path):
    tiny.tiny_opt(tmp_path / "source")
    first = to_bundle(tmp_path / "source", tmp_path / "first", task="text-generation")
    bundle = to_bundle(first.path("model.onnx"), tmp_path / "second", train=("prompt",), prompt_tokens=2)
    assert bundle.manifest.branches[0].weight == "model.decoder.embed_tokens.weight"
    assert bundle.manifest.text.max_length <= tiny.POSITIONS - 2


def test_half_precision_embeddings_keep_a_float32_prompt(tmp_path):
    source = tiny.tiny_llama(tmp_path / "source")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(source)
    loaded.half().save_pretrained(source)
    bundle = to_bundle(source, tmp_path / "bundle", task="text-generation", train=("prompt",))
    row = next(p for p in bundle.manifest.parameters if p.trainable)
    assert (row.dtype, row.shape) == ("float32", (10, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt_tokens": 64},
            "--prompt-tokens 64 leaves none of the 64 positions that the model has to a text: ",
        ),
        ({"prompt_tokens": 0}, "--prompt-tokens is 0 and must be at least 1"),
        ({"target_modules": ("query",)}, "--train prompt has no place for --target-modules"),
        (
            {"train": ("prompt", "lora")},
            "--train names prompt and lora, and a matrix gets one adapter: leave one out",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
    source = tiny.tiny_bert(tmp_path / "source")
    with pytest.raises(InputError) as error:
        to_bundle(source, tmp_path / "bundle", **{"train": ("prompt",), **options})
    assert str(error.value).startswith(message)
    assert not (tmp_path / "bundle").exists()


def test_models_that_read_no_text_are_told_so(tmp_path):
    save(mlp(), tmp_path / "mlp.onnx")
    with pytest.raises(InputError, match="--train prompt puts tokens before texts, and the model reads none"):
        to_bundle(tmp_path / "mlp.onnx", tmp_path / "bundle", loss="cross-entropy", train=("prompt",))


def ids_graph(nodes, *, dims=("batch", "length"), more=(), tensors=None):
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, dims), *more]
    return Graph(
        model(
            nodes,
            inputs,
            [value("y", ["batch", "length", 4])],
            {"table": normal((9, 4), 1), **(tensors or {})},
        )
    )


LOOKUP = node("Gather", "table input_ids", "y")


def test_a_graph_needs_one_lookup_of_the_ids():
    assert find_lookup(ids_graph([LOOKUP]))[1] == "table"
    two = [
        node("Gather", "table input_ids", "a"),
        node("Gather", "table input_ids", "b"),
        node("Add", "a b", "y"),
    ]
    with pytest.raises(InputError, match=r"stored table, and the graph has 2$"):
        find_lookup(ids_graph(two))
    with pytest.raises(InputError, match=r"stored table, and the graph has 0$"):
        find_lookup(ids_graph([node("Neg", "input_ids", "n"), node("Gather", "table n", "y")]))


def test_lengths_must_be_free_and_inputs_known():
    with pytest.raises(InputError, match=r"input_ids is \[batch, 7\], without a name for any length"):
        lengthen(ids_graph([LOOKUP], dims=("batch", 7)), 2, 1)
    bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["batch", "length"])
    with pytest.raises(
        InputError, match="a prompt has no value for the input bias, which has one for each token"
    ):
        lengthen(ids_graph([LOOKUP], more=[bias]), 2, 1)


def test_given_positions_are_shifted_and_outputs_keep_their_length():
    positions = helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "length"])
    nodes = [
        node("Gather", "table input_ids", "a"),
        node("Gather", "places position_ids", "b"),
        node("Add", "a b", "y"),
    ]
    places = normal((30, 4), 2)
    graph = ids_graph(nodes, more=[positions], tensors={"places": places})
    lengthen(graph, 3, 5)
    done = graph.finish(list(graph.proto.input), [value("y", ["batch", "length", 4])])
    session = ort.InferenceSession(done.SerializeToString(), providers=["CPUExecutionProvider"])
    ids, given = np.array([[1, 2], [3, 4]]), np.array([[0, 1], [5, 6]])
    (y,) = session.run(["y"], {"input_ids": ids, "position_ids": given})
    np.testing.assert_allclose(y, normal((9, 4), 1)[ids] + places[given + 3], rtol=1e-6)


def test_bundles_open(made):
    assert Bundle.open(made[0].folder).manifest.branches[0].kind == "prompt"
