"""Text models as ``.onnx`` files: what is read from the files beside them, and inputs that exporters add."""

import json
import shutil
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.builders.models import run
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.export.sources.onnx_folder import onnx_in

torch = pytest.importorskip("torch")
main_export = pytest.importorskip("optimum.exporters.onnx", exc_type=ImportError).main_export
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # optimum's and torch's own

WORDS = {"template": "{text} it was {label}", "labels": ("great", "terrible")}
CASES = {  # fixture, optimum's task, options
    "tiny_bert": ("text-classification", {}),
    "tiny_roberta": ("text-classification", {"labels": ("Yes", "no")}),
    "tiny_bert_mlm": ("fill-mask", {}),
    "tiny_distilbert_mlm": ("fill-mask", WORDS),
    "tiny_gpt2": ("text-generation-with-past", {}),
    "tiny_opt": ("text-generation-with-past", WORDS),
    "tiny_llama": ("text-generation", {}),
}


@pytest.fixture(scope="module")
def folders(request, tmp_path_factory):
    """Source folder and optimum's folder by the fixture's name, made once."""
    known = {}

    def make(name, task=None):
        if name not in known:
            source, folder = request.getfixturevalue(name), tmp_path_factory.mktemp("optimum")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                main_export(str(source), folder, task=task or CASES[name][0], do_validation=False)
            known[name] = source, folder
        return known[name]

    return make


SLOW = ("tiny_distilbert_mlm", "tiny_llama")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_text_is_read_as_for_the_model_it_was_made_from(name, folders, tmp_path):
    source, folder = folders(name)
    options = CASES[name][1] | {"train": ("norm",)}
    wanted = to_bundle(source, tmp_path / "source", **options).manifest
    got = to_bundle(folder, tmp_path / "bundle", **options, say=lambda text: None).manifest
    assert (got.task, got.loss, got.labels, got.text) == (
        wanted.task,
        wanted.loss,
        wanted.labels,
        wanted.text,
    )
    assert (got.inputs, got.targets, got.model_inputs) == (wanted.inputs, wanted.targets, wanted.model_inputs)
    assert "tokenizer.json" in got.files
    assert (tmp_path / "bundle" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_opt"])
def test_positions_and_empty_caches_are_made_inside(name, folders, tmp_path):
    source, folder = folders(name)
    taken = [value.name for value in onnx.load(folder / "model.onnx").graph.input]
    assert {"position_ids", "past_key_values.0.key"} < set(taken)
    said = []
    bundle = to_bundle(folder, tmp_path / "bundle", train=("norm",), say=said.append)
    assert (
        "model.onnx keeps caches of earlier tokens, which the bundle's graphs read and write no more" in said
    )
    assert [port.name for port in bundle.manifest.model_outputs] == ["logits"]
    module = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    ids = np.random.default_rng(0).integers(4, 100, (3, 11))
    mask = np.arange(11) < np.array([[11], [6], [1]])
    given = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    with torch.no_grad():
        wanted = module(**{key: torch.from_numpy(array) for key, array in given.items()}).logits.numpy()
    got = run(onnx.load(bundle.path("model.onnx")), given)["logits"]
    np.testing.assert_allclose(got[mask], wanted[mask], rtol=1e-3, atol=1e-4)


def test_tokens_of_int32_are_cast(folders, tmp_path):
    _, folder = folders("tiny_bert")
    shutil.copytree(folder, tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    for value in proto.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
        wide = f"{value.name}/wide"
        for node in proto.graph.node:
            node.input[:] = [wide if name == value.name else name for name in node.input]
        cast = helper.make_node("Cast", [value.name], [wide], to=TensorProto.INT64)
        proto.graph.node.insert(0, cast)
    onnx.save(proto, tmp_path / "model" / "model.onnx")
    bundle = to_bundle(tmp_path / "model", tmp_path / "bundle", train=("norm",))
    assert {port.dtype for port in bundle.manifest.model_inputs} == {"int64"}


def test_arrays_are_taken_where_they_are_asked_for(folders, tmp_path):
    _, folder = folders("tiny_bert")
    bundle = to_bundle(folder / "model.onnx", tmp_path / "bundle", task="classification", train=("norm",))
    assert (bundle.manifest.task, bundle.manifest.text) == ("classification", None)


def test_new_names_for_unnamed_classes_are_in_the_configuration(folders, tmp_path):
    _, folder = folders("tiny_bert")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    labels = ("bad", "so", "good")
    bundle = to_bundle(tmp_path / "model", tmp_path / "bundle", train=("norm",), labels=labels)
    assert bundle.manifest.labels == labels
    held = json.loads(bundle.path("config.json").read_text())
    assert held["id2label"] == {"0": "bad", "1": "so", "2": "good"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny_bert", {"labels": ("a", "b", "c")}, "has 3 classes (no, maybe, yes), and --labels a,b,c names others"),
        ("tiny_bert", {"labels": ("a", "a", "c")}, "--labels a,a,c names a class twice"),
        ("tiny_bert", {"task": "fill-mask"}, "needs, and not fill-mask: use --task text-classification"),
        ("tiny_bert", {"task": "translation"}, "has no task 'translation': use one of text-classification"),
        ("tiny_bert", WORDS, "label words need the task text-classification and the logits of a language model"),
        ("tiny_bert", {"max_seq_length": -1}, "--max-seq-length -1 should be 1 or more tokens"),
        ("tiny_bert", {"revision": "main"}, "an .onnx file has no option revision: leave it out"),
        ("tiny_bert", {"exporter": "optimum"}, "an .onnx file has no option exporter: leave it out"),
        ("tiny_bert_mlm", {"task": "text-generation"}, "gives what fill-mask needs, and not text-generation"),
        ("tiny_bert_mlm", {"labels": ("a", "b")}, "the task fill-mask has no classes"),
        ("tiny_gpt2", {"task": "fill-mask"}, "gives what text-generation needs, and not fill-mask"),
        ("tiny_encoder", {}, "gives 32 numbers for each token and the vocabulary has 99 words"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(name, options, message, folders, tmp_path):
    _, folder = folders(name, "feature-extraction" if name == "tiny_encoder" else None)
    with pytest.raises(InputError) as caught:
        to_bundle(folder, tmp_path / "bundle", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_the_longest_text_is_what_the_file_takes(folders, tmp_path):
    _, folder = folders("tiny_bert")
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps(settings | {"model_max_length": 1e30})
    )
    with pytest.raises(InputError, match=r"can't read a text of 512 tokens: give a smaller --max-seq-length"):
        to_bundle(tmp_path / "model", tmp_path / "bundle", train=("norm",))
    bundle = to_bundle(tmp_path / "model", tmp_path / "bundle", train=("norm",), max_seq_length=40)
    assert bundle.manifest.text.max_length == 40


def test_an_input_that_no_text_fills_is_named(folders, tmp_path):
    _, folder = folders("tiny_bert")
    shutil.copytree(folder, tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    extra = helper.make_tensor_value_info("encoder_hidden_states", TensorProto.FLOAT, ["batch", "n", 32])
    proto.graph.input.append(extra)
    onnx.save(proto, tmp_path / "model" / "model.onnx")
    with pytest.raises(
        InputError, match=r"takes encoder_hidden_states, which no text fills: an encoder-decoder"
    ):
        to_bundle(tmp_path / "model", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("files", "chosen", "said"),
    [
        (["model.onnx"], "model.onnx", None),
        (["model.onnx", "model_quantized.onnx"], "model.onnx", "model.onnx is taken"),
        (["model_quantized.onnx"], "model_quantized.onnx", None),
        (["decoder_model.onnx", "decoder_with_past_model.onnx"], "decoder_model.onnx", "decoder_model.onnx is taken"),
        (["onnx/model.onnx", "config.json"], "onnx/model.onnx", None),
        (["any.onnx"], "any.onnx", None),
        (["model.onnx", "config.json", "model.safetensors"], None, "the weights are taken"),
        (["config.json", "model.safetensors"], None, None),
    ],
)  # fmt: skip
def test_the_file_of_a_folder(tmp_path, files, chosen, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    told = []
    found = onnx_in(tmp_path, told.append)
    assert found == (tmp_path / chosen if chosen else None)
    assert len(told) == (said is not None)
    assert said is None or said in told[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["encoder_model.onnx", "decoder_model.onnx"], "holds an encoder-decoder"),
        (["decoder_with_past_model.onnx"], "which go on from a cache of earlier tokens: export the model"),
        (["a.onnx", "b.onnx"], "has a.onnx, b.onnx: give the path of one of them instead of the folder"),
    ],
)
def test_folders_without_one_model_are_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        onnx_in(tmp_path, print)
    assert message in str(caught.value)
