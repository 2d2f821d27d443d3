from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.builders.bundles import classifier
from tests.builders.tiny import WORDS
from zoedge.errors import DataError
from zoedge.runtime.data import Record
from zoedge.runtime.data.batches import micro_batches
from zoedge.runtime.tasks import task_for

LONG = "the movie was not great and the plot was dull but the acting was really good"


def record(**fields):
    return Record(fields, "data.csv:7")


@pytest.mark.parametrize(
    "fields",
    [
        {"text": LONG},
        {"sentence": LONG},
        {"text": ""},
        {"sentence1": LONG, "sentence2": "a cat"},
        {"premise": "a dog", "hypothesis": LONG},
        {"question1": LONG, "question2": LONG},
        {"question": "was it good ?", "sentence": LONG},
        {"text": LONG, "text_pair": "a cat"},
    ],
)
def test_inputs_are_those_of_transformers(tiny_bert, fields):
    theirs = AutoTokenizer.from_pretrained(tiny_bert)(*fields.values(), truncation=True, max_length=12)
    example = task_for(classifier(tiny_bert, max_length=12)).encode(record(**fields, label="yes"))
    assert {name: array.tolist() for name, array in example.inputs.items()} == dict(theirs)
    assert example.length == len(theirs["input_ids"]) <= 12
    assert example.targets["labels"] == 2
    assert example.targets["labels"].dtype == np.int64


def test_a_batch_is_that_of_transformers(tiny_bert):
    texts = [LONG, "a dull plot", "a cat"]
    bundle = classifier(tiny_bert)
    task = task_for(bundle)
    (batch,) = micro_batches(
        [task.encode(record(text=t, label=0)) for t in texts], [2, 0, 1], manifest=bundle.manifest
    )
    order = [[2, 0, 1][row] for row in batch.rows]
    theirs = AutoTokenizer.from_pretrained(tiny_bert)(
        [texts[i] for i in order], padding=True, pad_to_multiple_of=4
    )
    assert {name: array.tolist() for name, array in batch.inputs.items()} == dict(theirs)


def test_only_the_ports_of_the_graph_are_made(tiny_roberta):
    bundle = classifier(tiny_roberta, token_types=False)
    bundle = type(bundle)(bundle.folder, _without_types(bundle.manifest), bundle.digest)
    example = task_for(bundle).encode(record(sentence1="a", sentence2="b", label=0))
    assert set(example.inputs) == {"input_ids", "attention_mask"}


def _without_types(manifest):
    import msgspec

    return msgspec.structs.replace(manifest, inputs=manifest.inputs[:2])


def test_segments_are_zero_where_the_model_has_none(tiny_bert):
    example = task_for(classifier(tiny_bert, token_types=False)).encode(
        record(sentence1="a", sentence2="b", label=0)
    )
    assert not example.inputs["token_type_ids"].any()


def test_prediction_needs_no_label(tiny_bert):
    task = task_for(classifier(tiny_bert))
    example = task.encode(record(text="a cat"), labelled=False)
    assert example.targets["labels"].shape == ()
    logits = np.array([0.0, np.log(2.0), np.log(5.0)], np.float32)
    found = task.prediction(example, {"logits": logits})
    assert found["label"] == "yes"
    assert found["score"] == pytest.approx(5 / 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "a", "label": "yess"}, r"data\.csv:7 has the label 'yess', which this bundle doesn't know; "
         r"did you mean yes\? \(it knows no, maybe, yes\): correct the data or export with --labels"),
        ({"text": "a", "label": 3}, "has the label 3, which"),
        ({"text": "a"}, r"data\.csv:7 has no label: looked for label, labels, .*its fields are text; .*--label-key"),
        ({"review": "a", "label": 1}, "has no text: looked for text, .* are review, label; .*--text-key"),
        ({"text": 3, "label": 1}, "has 3 as 'text', which must be text"),
        ({"text": None, "label": 1}, "has None as 'text'"),
        ({"images": np.zeros((4, 4)), "labels": 1}, "holds an image and this bundle takes text: give text data"),
        ({"text": np.zeros(4), "labels": 1}, r"has an array of shape \[4\] as 'text' and this bundle takes text"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit(tiny_bert, fields, message):
    with pytest.raises(DataError, match=message) as caught:
        task_for(classifier(tiny_bert)).encode(record(**fields))
    assert "\n" not in str(caught.value)


def test_a_text_without_tokens(tiny_gpt2):
    with pytest.raises(DataError, match="empty text, which gives no tokens"):
        task_for(classifier(tiny_gpt2)).encode(record(text="", label=0))


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("pair", [False, True])
def test_long_texts_lose_the_side_asked_for_and_say_how_much(tiny_bert, side, pair):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, truncation_side=side or "right")
    first, second = " ".join(WORDS[:25]), " ".join(WORDS[10:20])
    fields = {"sentence1": first, "sentence2": second} if pair else {"text": first}
    expected = tokenizer(*fields.values(), truncation="longest_first", max_length=16)["input_ids"]
    whole = tokenizer(*fields.values())["input_ids"]
    task = task_for(classifier(tiny_bert, max_length=16), 0, side)
    example = task.encode(Record({**fields, "label": "yes"}, "x:1"))
    assert example.inputs["input_ids"].tolist() == expected
    assert example.cut == len(whole) - 16
    assert task.encode(Record({"text": "a", "label": "yes"}, "x:1")).cut == 0
