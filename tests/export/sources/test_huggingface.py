"""Each family once through the whole export; what needs no tracing is tested beside its own module."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertModel,
)

from tests.builders import tiny
from tests.parity import check_parity, initializers
from zoedge.errors import InputError, MissingPackageError
from zoedge.export.sources.huggingface import from_huggingface

WORDS = {"template": "{text} it was {label}", "labels": ("great", "terrible")}
HEAD = {"labels": ("a", "b", "c")}
CASES = {
    "tiny_bert": (AutoModelForSequenceClassification, {}),
    "tiny_opt": (AutoModelForCausalLM, WORDS),
    "tiny_vit": (AutoModelForImageClassification, {}),
    "tiny_resnet": (AutoModelForImageClassification, {}),
    "tiny_distilbert_mlm": (AutoModelForMaskedLM, {}),
    "tiny_roberta_mlm": (AutoModelForMaskedLM, WORDS),
    "tiny_gpt2": (AutoModelForCausalLM, {}),
    "tiny_llama": (AutoModelForCausalLM, {"max_seq_length": 16}),
}
# these have one layer here, which is faster to trace
SHALLOW = ("tiny_distilbert_mlm", "tiny_roberta_mlm", "tiny_gpt2", "tiny_llama")
SHAPES = ((3, 5), (1, 1), (1, 17), (2, 64))


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(folder, class of transformers, exported)."""
    name = request.param
    if name in SHALLOW:
        folder = getattr(tiny, name)(tmp_path_factory.mktemp("shallow") / name, layers=1)
    else:
        folder = request.getfixturevalue(name)
    auto, options = CASES[name]
    return folder, auto, from_huggingface(folder, **options)


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    """An encoder with a new head, which is given values here: zeros would agree with anything."""
    exported = from_huggingface(tiny_encoder, **HEAD)
    assert not exported.weights["classifier.weight"].any()
    assert not exported.weights["classifier.bias"].any()
    exported.weights["classifier.weight"][...] = np.random.default_rng(0).standard_normal((3, 32))
    exported.weights["classifier.bias"][...] = (1, 2, 3)
    return exported


def test_onnxruntime_agrees_with_torch(case):
    check_parity(case[2], SHAPES)


def test_reference_is_the_model_that_transformers_loads(case):
    folder, auto, exported = case
    model = auto.from_pretrained(folder).eval()
    inputs = exported.sample_inputs(np.random.default_rng(3), 3, 9)
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
    shown = inputs.get("attention_mask", np.ones(len(wanted), bool)).astype(bool)
    if wanted.ndim == 2:
        shown = slice(None)
    got = exported.reference(inputs)["logits"]
    np.testing.assert_allclose(got[shown], wanted.numpy()[shown], rtol=1e-4, atol=1e-5)


def test_weights_are_the_checkpoint(case):
    folder, _, exported = case
    stored = load_file(folder / "model.safetensors")
    large = {name for name in exported.weights if name.endswith(".attn.bias")}  # GPT-2's masks, no state
    assert exported.weights.keys() - large == stored.keys()
    for name, array in stored.items():
        assert exported.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(exported.weights[name], array)


def test_transformers_loads_them_back(case, tmp_path):
    folder, auto, exported = case
    for name, raw in exported.files.items():
        (tmp_path / name).write_bytes(raw)
    save_file(exported.weights, tmp_path / "model.safetensors", {"format": "pt"})
    model, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    source = auto.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.state_dict().items())


def test_parameters_are_initializers_without_data(case):
    _, auto, exported = case
    found = initializers(exported)
    model = auto.from_pretrained(case[0])
    others = {other for names in exported.tied.values() for other in names}
    assert set(exported.parameters) == {name for name, _ in model.named_parameters()} - others
    for name in exported.parameters:
        assert found[name].data_location == onnx.TensorProto.EXTERNAL
        assert tuple(found[name].dims) == exported.weights[name].shape
    assert all(tensor.ByteSize() < 1 << 17 for tensor in found.values())


def test_inputs_and_output_are_dynamic(case):
    graph = case[2].model.graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    (output,) = graph.output
    dims = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    assert output.name == "logits"
    if "pixel_values" in shapes:
        assert shapes["pixel_values"][:2] == ["batch", 3]
        assert dims == ["batch", 3]
    else:
        assert all(shape == ["batch", "sequence"] for shape in shapes.values())
        assert dims[:-1] in (["batch"], ["batch", "sequence"])


@pytest.mark.parametrize("case", ["tiny_opt"], indirect=True)
def test_a_tied_head_reads_the_embedding(case):
    exported = case[2]
    assert exported.tied == {"model.decoder.embed_tokens.weight": ("lm_head.weight",)}
    reads = [
        node.op_type for node in exported.model.graph.node for name in node.input if name in exported.tied
    ]
    assert sorted(reads) == ["Gather", "Transpose"]


@pytest.mark.parametrize("case", ["tiny_opt"], indirect=True)
def test_label_words(case):
    exported = case[2]
    vocabulary = json.loads(exported.files["tokenizer.json"])["model"]["vocab"]
    assert exported.text.label_word_ids == (vocabulary["Ġgreat"], vocabulary["Ġterrible"])
    assert exported.text.template == WORDS["template"]
    assert (exported.task, exported.loss) == ("text-classification", "cross-entropy")
    assert exported.labels == WORDS["labels"]


@pytest.mark.parametrize("case", ["tiny_llama"], indirect=True)
def test_text_generation(case):
    exported = case[2]
    assert (exported.task, exported.loss) == ("text-generation", "token-cross-entropy")
    assert (exported.text.max_length, exported.labels) == (16, ())
    assert "generation_config.json" in exported.files


@pytest.mark.parametrize("case", ["tiny_distilbert_mlm"], indirect=True)
def test_fill_mask(case):
    assert (case[2].task, case[2].loss, case[2].text.mask_id) == ("fill-mask", "token-cross-entropy", 4)


@pytest.mark.parametrize("case", ["tiny_bert"], indirect=True)
def test_a_trained_head(case):
    exported = case[2]
    assert (exported.task, exported.loss, exported.fresh_head) == (
        "text-classification",
        "cross-entropy",
        None,
    )
    assert exported.labels == ("no", "maybe", "yes")
    assert exported.source.kind == "huggingface"
    assert (exported.source.name, exported.source.architecture) == (
        "tiny_bert",
        "BertForSequenceClassification",
    )
    assert set(exported.source.versions) == {"torch", "transformers", "onnx", "onnxscript"}


@pytest.mark.parametrize("case", ["tiny_resnet"], indirect=True)
def test_images(case):
    exported = case[2]
    assert (exported.task, exported.labels) == ("image-classification", ("cat", "dog", "hen"))
    assert (exported.image.height, exported.image.mean) == (32, (0.5, 0.4, 0.3))
    assert "resnet.embedder.embedder.normalization.running_var" in initializers(exported)


def test_a_new_head_agrees_with_torch(encoder):
    check_parity(encoder, SHAPES)


def test_a_new_head_reads_the_mean_over_the_mask(encoder, tiny_encoder):
    inputs = encoder.sample_inputs(np.random.default_rng(5), 4, 9)
    assert (inputs["attention_mask"].sum(1) < 9).any()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        tokens = BertModel.from_pretrained(tiny_encoder).eval()(**tensors).last_hidden_state.numpy()
    lengths = inputs["attention_mask"].sum(1)
    features = np.stack([row[:n].mean(0) for row, n in zip(tokens, lengths, strict=True)])
    answer = encoder.reference(inputs)
    np.testing.assert_allclose(answer["zoedge/features"], features, rtol=1e-5, atol=1e-5)
    wanted = features @ encoder.weights["classifier.weight"].T + [1, 2, 3]
    np.testing.assert_allclose(answer["logits"], wanted, rtol=1e-4, atol=1e-4)


def test_a_new_head_keeps_what_the_graph_does_not_use(encoder, tiny_encoder):
    assert encoder.fresh_head == ("classifier.weight", "classifier.bias")
    assert set(encoder.weights) == {*load_file(tiny_encoder / "model.safetensors"), *encoder.fresh_head}
    unused = set(encoder.weights) - set(encoder.parameters)
    assert unused == {"pooler.dense.weight", "pooler.dense.bias"}
    assert encoder.files["config.json"] == (tiny_encoder / "config.json").read_bytes()


def test_padding_changes_nothing(encoder):
    inputs = encoder.sample_inputs(np.random.default_rng(6), 1, 6)
    padded = {name: np.pad(value, ((0, 0), (0, 5))) for name, value in inputs.items()}
    short, long = encoder.reference(inputs)["logits"], encoder.reference(padded)["logits"]
    np.testing.assert_allclose(short, long, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("a", "b", "a"), "names a class twice"), (("a",), "--labels a is a single class")],
)
def test_labels_that_are_no_classes(tiny_bert, labels, message):
    with pytest.raises(InputError, match=message):
        from_huggingface(tiny_bert, labels=labels)


def test_a_new_head_needs_labels(tiny_bert_mlm):
    with pytest.raises(InputError, match="BertForMaskedLM has no classes of its own: give --labels"):
        from_huggingface(tiny_bert_mlm, task="text-classification")


def test_names_the_missing_package(monkeypatch, tiny_bert):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingPackageError, match="exporting a Hugging Face model needs the package transformers"
    ):
        from_huggingface(tiny_bert)


def test_a_masked_model_needs_a_mask_token(tiny_bert_mlm, tmp_path):
    folder = shutil.copytree(tiny_bert_mlm, tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(InputError, match="has no mask token, which fill-mask needs"):
        from_huggingface(folder)
    with pytest.raises(InputError, match="has no mask token, which text-classification needs"):
        from_huggingface(folder, **WORDS)
