import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DeiTConfig,
)

from tests.builders.tiny import tiny_bert as make_bert
from zoedge.errors import InputError
from zoedge.export.sources.hf_common import config_file, load_classifier
from zoedge.export.sources.hf_heads import final_labels, head_names, keeps_head
from zoedge.export.sources.hf_origin import locate, read_config
from zoedge.export.sources.hf_plan import plan


def classifier(folder, labels=(), task=None):
    origin = locate(folder)
    config = read_config(origin)
    model, names, head = load_classifier(origin, config, plan(config, task, labels, None), labels)
    return model, names, head, json.loads(config_file(origin, model))


def config_with(*labels):
    return AutoConfig.for_model("bert", id2label=dict(enumerate(labels)))


@pytest.mark.parametrize(
    ("own", "labels", "kept", "final"),
    [
        (("no", "yes"), (), True, ("no", "yes")),
        (("no", "yes"), ("Yes", "No"), True, ("no", "yes")),  # the order of the logits stays
        (("LABEL_0", "LABEL_1"), ("bad", "good"), True, ("bad", "good")),
        (("no", "yes"), ("bad", "good"), False, None),
        (("no", "yes"), ("no", "maybe", "yes"), False, None),
        (("LABEL_0", "LABEL_1"), ("a", "b", "c"), False, None),
    ],
)
def test_when_a_trained_head_is_kept(own, labels, kept, final):
    config = config_with(*own)
    assert keeps_head(config, labels) is kept
    if kept:
        assert final_labels(config, labels) == final


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("tiny_bert", "classifier.weight"),
        ("tiny_roberta", "classifier.out_proj.weight"),
        ("tiny_vit", "classifier.weight"),
        ("tiny_resnet", "classifier.1.weight"),
    ],
)
def test_new_labels_make_a_fresh_head_of_zeros(name, weight, request):
    folder = request.getfixturevalue(name)
    labels = ("a", "b", "c", "d")
    model, names, head, config = classifier(folder, labels)
    bias = weight.replace("weight", "bias")
    assert (names, head) == (labels, (weight, bias))
    state, before = model.state_dict(), load_file(folder / "model.safetensors")
    assert len(state[weight]) == 4
    assert not state[weight].any()
    assert not state[bias].any()
    assert state.keys() == before.keys()
    for key in state.keys() - {weight, bias}:
        np.testing.assert_array_equal(state[key].numpy(), before[key].numpy())
    assert config["id2label"] == {str(i): label for i, label in enumerate(labels)}


def test_as_many_other_labels_reset_the_head_too(tiny_bert):
    model, names, head, config = classifier(tiny_bert, ("x", "y", "z"))
    assert names == ("x", "y", "z")
    assert head == ("classifier.weight", "classifier.bias")
    assert not model.classifier.weight.any()
    assert config["label2id"] == {"x": 0, "y": 1, "z": 2}


def test_a_kept_head_keeps_its_values_and_the_files_bytes(tiny_bert):
    model, names, head, _ = classifier(tiny_bert)
    assert (names, head) == (("no", "maybe", "yes"), None)
    stored = load_file(tiny_bert / "model.safetensors")["classifier.weight"]
    np.testing.assert_array_equal(model.classifier.weight.detach().numpy(), stored.numpy())
    assert config_file(locate(tiny_bert), model) == (tiny_bert / "config.json").read_bytes()


def test_unnamed_classes_get_the_names(tmp_path):
    folder = make_bert(tmp_path / "m", labels=("LABEL_0", "LABEL_1"))
    model, names, head, config = classifier(folder, ("bad", "good"))
    assert (names, head) == (("bad", "good"), None)
    assert model.classifier.weight.any()
    assert config["id2label"] == {"0": "bad", "1": "good"}
    shutil.copy(folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == {0: "bad", 1: "good"}


def test_regression_has_one_output_and_no_labels(tiny_bert, tmp_path):
    model, names, head, _ = classifier(tiny_bert, task="regression")
    assert (names, len(model.classifier.weight)) == ((), 1)
    assert head is not None  # the three classes are gone
    own = make_bert(tmp_path / "m", labels=("score",))
    model, names, head, _ = classifier(own)
    assert (names, head) == ((), None)
    assert model.classifier.weight.any()


def test_an_image_encoder_needs_labels(tiny_vit, tmp_path):
    folder = shutil.copytree(tiny_vit, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["ViTModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="ViTModel has no classes of its own: give --labels"):
        classifier(folder, task="image-classification")
    _, names, head, written = classifier(folder, ("a", "b"))
    assert (names, head) == (("a", "b"), ("classifier.weight", "classifier.bias"))
    assert written["architectures"] == ["ViTForImageClassification"]


def test_a_head_of_several_layers_cannot_be_replaced():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = DeiTConfig(**sizes, architectures=["DeiTForImageClassification"])
    wanted = ("classifier.weight", "classifier.bias")
    assert head_names(AutoModelForImageClassification, config) == wanted
    config.architectures = ["DeiTForImageClassificationWithTeacher"]
    with pytest.raises(InputError, match="has no single linear layer with a bias as its head"):
        head_names(AutoModelForImageClassification, config)
