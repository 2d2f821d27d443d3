import re

import pytest
from transformers import AutoConfig

from zoedge.errors import InputError
from zoedge.export.sources.hf_plan import TASKS, is_causal, plan


def config_of(architecture, model_type, **settings):
    config = AutoConfig.for_model(model_type, **settings)
    config.architectures = [architecture]
    return config


BERT, SEQUENCE = ("BertModel", "bert"), ("BertForSequenceClassification", "bert")
TEMPLATE = "{text} It was {label}"


@pytest.mark.parametrize(
    ("model", "options", "wanted"),
    [
        (SEQUENCE, {}, ("text-classification", "head")),
        (SEQUENCE, {"task": "regression"}, ("regression", "head")),
        ((*SEQUENCE, 1), {}, ("regression", "head")),
        (BERT, {"labels": ("a", "b")}, ("text-classification", "pooled")),
        (BERT, {"task": "regression"}, ("regression", "pooled")),
        (("BertForPreTraining", "bert"), {"labels": ("a", "b")}, ("text-classification", "pooled")),
        (("RobertaForMaskedLM", "roberta"), {}, ("fill-mask", "masked")),
        (("RobertaForMaskedLM", "roberta"), {"template": TEMPLATE}, ("text-classification", "masked")),
        (("OPTForCausalLM", "opt"), {}, ("text-generation", "causal")),
        (("GPT2LMHeadModel", "gpt2"), {"template": TEMPLATE}, ("text-classification", "causal")),
        (("LlamaForCausalLM", "llama"), {"task": "text-classification"}, ("text-classification", "pooled")),
        (("ViTForImageClassification", "vit"), {}, ("image-classification", "image")),
        (("ResNetModel", "resnet"), {"labels": ("a", "b")}, ("image-classification", "image")),
    ],
)
def test_task_and_route(model, options, wanted):
    config = config_of(*model[:2], **({"num_labels": model[2]} if len(model) > 2 else {}))
    chosen = plan(config, options.get("task"), options.get("labels", ()), options.get("template"))
    assert (chosen.task, chosen.route) == wanted


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            BERT,
            {},
            "BertModel is a text encoder without a head: use --task text-classification --labels a,b,c or",
        ),
        (
            BERT,
            {"task": "fill-mask"},
            "BertModel is a text encoder without a head, and fill-mask can't be done",
        ),
        (BERT, {"task": "text-clasification"}, "did you mean text-classification"),
        (
            SEQUENCE,
            {"template": TEMPLATE},
            "has a classification head, and label words need a causal or masked",
        ),
        (
            ("OPTForCausalLM", "opt"),
            {"labels": ("a", "b")},
            r"a new head \(--task .*\) or label words \(--template\)",
        ),
        (("OPTForCausalLM", "opt"), {"task": "text-generation", "labels": ("a", "b")}, "leave --labels out"),
        (
            ("ViTForImageClassification", "vit"),
            {"task": "text-classification"},
            "is an image classifier, and",
        ),
        (("T5ForConditionalGeneration", "t5"), {}, "encoder-decoder"),
        (
            ("BertForTokenClassification", "bert"),
            {"task": "token-classification"},
            r"gives a class for each token, which is no task of zoedge \(its tasks are text-classification, .*\): use "
            "the encoder that it was made from with --labels",
        ),
        (("Wav2Vec2ForCTC", "wav2vec2"), {}, "the architecture Wav2Vec2ForCTC isn't supported"),
        (("Wav2Vec2Model", "wav2vec2"), {}, "the architecture Wav2Vec2Model isn't supported"),
    ],
)
def test_what_does_not_fit(model, options, message):
    with pytest.raises(InputError, match=message):
        plan(config_of(*model), options.get("task"), options.get("labels", ()), options.get("template"))


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("labels", [(), ("a", "b")])
@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize(
    "model",
    [BERT, SEQUENCE, ("OPTForCausalLM", "opt"), ("ViTForImageClassification", "vit"), ("ViTModel", "vit")],
)
def test_what_a_message_tells_to_use_works(model, template, labels, task):
    config = config_of(*model)
    try:
        plan(config, task, labels, template)
    except InputError as error:
        message = str(error)
    else:
        return
    told = re.search(r": use (--task .*?)(, without --template)?$", message)
    if told is None:
        assert message.endswith("leave --labels out") or "can mean a new head" in message
        return
    for remedy in told[1].split(" or "):
        words = remedy.split()
        kept = () if "without" in words else ("a", "b", "c") if "a,b,c" in words else labels
        plan(config, words[1], kept, None if told[2] else template)


def test_several_labels_at_once():
    config = config_of(*SEQUENCE, problem_type="multi_label_classification")
    with pytest.raises(InputError, match="several labels at once"):
        plan(config, None, (), None)


def test_no_architecture():
    config = AutoConfig.for_model("bert")
    with pytest.raises(InputError, match="names no architectures"):
        plan(config, None, (), None)


@pytest.mark.parametrize(
    ("kind", "causal"), [("llama", True), ("gpt2", True), ("bert", False), ("roberta", False)]
)
def test_which_models_read_from_left_to_right(kind, causal):
    assert is_causal(AutoConfig.for_model(kind)) is causal
