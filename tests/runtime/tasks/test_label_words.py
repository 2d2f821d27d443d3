from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.builders.bundles import label_words
from tests.builders.tiny import WORDS
from zoedge.errors import BundleError, DataError
from zoedge.runtime.data import Record
from zoedge.runtime.tasks import task_for

TEMPLATE = "{text} it was {label}"
WORD = "really "


def record(**fields):
    return Record(fields, "data.csv:7")


def encode(bundle, **fields):
    example = task_for(bundle).encode(record(**fields))
    return example, example.inputs["input_ids"].tolist(), int(example.inputs["label_positions"][0])


@pytest.mark.parametrize("model", ["tiny_opt", "tiny_llama", "tiny_gpt2"])
def test_causal_prompt_ends_where_the_word_begins(model, request):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _, ids, position = encode(label_words(folder, TEMPLATE), text=" a great movie ! ", label="good")
    assert ids == tokenizer("a great movie ! it was")["input_ids"]
    assert position == len(ids) - 1
    # the label word continues it: prompt + " great" is tokenized into the prompt's tokens and one more
    assert tokenizer("a great movie ! it was great")["input_ids"][:-1] == ids


def test_causal_with_a_bos_that_the_tokenizer_leaves_out(tiny_gpt2):
    _, ids, position = encode(label_words(tiny_gpt2, TEMPLATE, bos_id=0), text="a cat", label=0)
    assert ids[0] == 0
    assert AutoTokenizer.from_pretrained(tiny_gpt2).decode(ids[1:]) == "a cat it was"
    assert position == len(ids) - 1


def test_what_follows_the_label_is_not_read_by_a_causal_model(tiny_opt):
    short = encode(label_words(tiny_opt, TEMPLATE), text="a cat", label=0)[1]
    assert encode(label_words(tiny_opt, TEMPLATE + " ."), text="a cat", label=0)[1] == short


@pytest.mark.parametrize(("model", "mask"), [("tiny_bert_mlm", "[MASK]"), ("tiny_roberta_mlm", "<mask>")])
def test_masked_template(model, mask, request):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bundle = label_words(folder, TEMPLATE + " .", mask_id=tokenizer.mask_token_id)
    _, ids, position = encode(bundle, text="a great movie !", label="bad")
    assert ids == tokenizer(f"a great movie ! it was {mask} .")["input_ids"]
    assert ids[position] == tokenizer.mask_token_id
    # a mask in the text is not the label's
    _, ids, position = encode(bundle, text=f"a {mask} movie", label="bad")
    assert [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id][1] == position


@pytest.mark.parametrize("length", [8, 12, 13, 20])
def test_the_text_is_cut_and_the_template_stays(tiny_bert_mlm, length):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_mlm)
    bundle = label_words(tiny_bert_mlm, "so {text} it was {label} .", max_length=length, mask_id=4)
    example, ids, position = encode(bundle, text=WORD * 40, label=1)
    assert example.length == len(ids) == length  # words of one token: the room is used up
    assert tokenizer.decode(ids[1:-1]) == "so " + WORD * (length - 7) + "it was [MASK]."
    assert ids[position] == 4


@pytest.mark.parametrize("model", ["tiny_opt", "tiny_llama"])
@pytest.mark.parametrize("text", [WORD * 40, "日本語 " * 20])
def test_causal_text_is_cut_behind_the_first_token(model, text, request):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = tokenizer(f"{text}it was")["input_ids"]
    _, ids, _ = encode(label_words(folder, TEMPLATE, max_length=14), text=text, label=1)
    assert len(ids) <= 14
    assert ids[0] == tokenizer.bos_token_id
    assert ids[:4] == whole[:4]
    assert tokenizer.decode(ids[-2:]) in ("it was", " it was")


def test_the_longer_of_two_texts_is_cut_first(tiny_bert_mlm):
    template = "{premise} so {hypothesis} ? {label} ."
    bundle = label_words(tiny_bert_mlm, template, max_length=16, mask_id=4)
    _, ids, _ = encode(bundle, premise="the dog " * 20, hypothesis="a cat", label=1)
    words = AutoTokenizer.from_pretrained(tiny_bert_mlm).decode(ids)
    assert " so a cat? [MASK]." in words
    assert "the dog the" in words


def test_no_room_for_the_text(tiny_bert_mlm):
    bundle = label_words(tiny_bert_mlm, TEMPLATE, max_length=4, mask_id=4)
    with pytest.raises(
        DataError, match=r"data\.csv:7 leaves no room.*more than 4 tokens, so export with a larger --max"
    ):
        encode(bundle, text="a cat", label=1)


def test_text_is_found_under_its_usual_names(tiny_opt):
    bundle = label_words(tiny_opt, TEMPLATE)
    assert encode(bundle, sentence="a cat", label=1)[1] == encode(bundle, text="a cat", label=1)[1]
    with pytest.raises(DataError, match=r"is a pair of texts and the template shows one \{text\}"):
        encode(bundle, sentence1="a", sentence2="b", label=1)
    with pytest.raises(DataError, match=r"has no premise: looked for premise, its fields are text, label"):
        encode(label_words(tiny_opt, "{premise} {label}"), text="a cat", label=1)


def test_braces_in_the_text_and_the_template(tiny_gpt2):
    ids = encode(label_words(tiny_gpt2, "{{{text}}} {label}"), text="a {label} b", label=1)[1]
    assert AutoTokenizer.from_pretrained(tiny_gpt2).decode(ids) == "{a {label} b}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} it was", r"needs \{label\} once and has it 0 times"),
        ("{label} {label}", r"has it 2 times"),
        ("{text {label}", r"is malformed"),
        ("{label} {text}", r"shows fields after \{label\}, where a causal model can't see them"),
    ],
)
def test_templates_that_do_not_work(tiny_opt, template, message):
    with pytest.raises(BundleError, match=message):
        task_for(label_words(tiny_opt, template))


def test_label_and_prediction(tiny_opt):
    task = task_for(label_words(tiny_opt, TEMPLATE))
    assert encode(label_words(tiny_opt, TEMPLATE), text="a cat", label="good")[0].targets["labels"] == 1
    example = task.encode(record(text="a cat"), labelled=False)
    assert task.prediction(example, {"logits": np.array([3.0, 0.0])})["label"] == "bad"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_text_loses_the_side_asked_for(tiny_opt, side):
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    task = task_for(label_words(tiny_opt, "{text} It was {label}", max_length=12), 0, side)
    words = WORDS[:30]
    example = task.encode(Record({"text": " ".join(words), "label": "good"}, "x:1"))
    read = (
        tokenizer.decode(example.inputs["input_ids"], skip_special_tokens=True)
        .removesuffix(" It was")
        .split()
    )
    assert read == (words[-len(read) :] if side == "left" else words[: len(read)])
    assert len(read) > 2
    assert example.cut > 0
