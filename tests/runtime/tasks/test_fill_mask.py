from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.builders.bundles import masked
from tests.builders.tiny import WORDS
from zoedge.errors import BundleError, DataError
from zoedge.runtime.data import Record
from zoedge.runtime.tasks import task_for
from zoedge.runtime.tasks.fill_mask import FillMask

tokenizer = cache(AutoTokenizer.from_pretrained)

MODELS = {"tiny_bert_mlm": 4, "tiny_roberta_mlm": 4}


def record(**fields):
    return Record(fields, "data.jsonl:7")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mask", ["[MASK]", "<mask>"])
def test_the_word_behind_the_mask(model, mask, request):
    folder = request.getfixturevalue(model)
    theirs = tokenizer(folder)
    assert theirs.mask_token_id == MODELS[model]
    example = task_for(masked(folder, MODELS[model])).encode(
        record(text=f"the movie was {mask} .", label="great")
    )
    ids, positions = example.inputs["input_ids"].copy(), example.inputs["label_positions"]
    assert ids.tolist() == theirs(f"the movie was {theirs.mask_token} .")["input_ids"]
    assert np.flatnonzero(ids == theirs.mask_token_id).tolist() == positions.tolist()
    ids[positions] = example.targets["labels"]
    assert ids.tolist() == theirs("the movie was great .")["input_ids"]


def test_several_masks(tiny_bert_mlm):
    task = task_for(masked(tiny_bert_mlm, 4))
    example = task.encode(record(text="[MASK] movie was [MASK]", target=["the", "dull"]))
    assert tokenizer(tiny_bert_mlm).convert_ids_to_tokens(example.targets["labels"].tolist()) == [
        "the",
        "dull",
    ]
    found = task.prediction(example, {"predictions": np.array([*example.targets["labels"], -100])})
    assert found == {"words": ["the", "dull"]}
    bare = task.encode(record(text="[MASK] movie was [MASK]"), labelled=False)
    assert bare.inputs["label_positions"].tolist() == example.inputs["label_positions"].tolist()
    assert bare.targets["labels"].shape == (2,)


@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=50), seed=st.integers(0, 2**64 - 1))
def test_plain_text_is_masked_at_random(tiny_bert_mlm, words, seed):
    bundle = masked(tiny_bert_mlm, 4)
    plain = record(text=" ".join(words))
    example = FillMask(bundle, seed).encode(plain)
    assert len(example.targets["labels"]) == max(1, round(0.15 * len(words)))
    ids = example.inputs["input_ids"].copy()
    assert np.all(ids[example.inputs["label_positions"]] == 4)
    ids[example.inputs["label_positions"]] = example.targets["labels"]
    assert ids.tolist() == tokenizer(tiny_bert_mlm)(plain.fields["text"])["input_ids"]
    again = FillMask(bundle, seed).encode(plain)
    assert again.inputs["input_ids"].tolist() == example.inputs["input_ids"].tolist()


def test_seed_and_text_decide_what_is_masked(tiny_bert_mlm):
    text = " ".join(WORDS)
    bundle = masked(tiny_bert_mlm, 4)
    chosen = [
        tuple(FillMask(bundle, seed).encode(record(text=t)).inputs["label_positions"])
        for seed, t in ((0, text), (1, text), (0, f"{text} cat"))
    ]
    assert len(set(chosen)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"text": "a [MASK]", "label": "xyzzy"},
            r"data\.jsonl:7 has 'xyzzy' to fill in, and the tokenizer splits that",
        ),
        ({"text": "a [MASK] [MASK]", "label": "cat"}, "has 2 masks and 1 words: give one for each mask"),
        ({"text": "a cat", "label": "cat"}, r"has no mask in its text: write \[MASK\] for each word"),
        ({"text": "a [MASK]"}, "has no label"),
        ({"text": ""}, "has an empty text"),
        ({"text": "cat " * 70 + "[MASK]", "label": "dog"}, "has a mask beyond the model's 64 tokens"),
    ],
)
def test_records_that_do_not_fit(tiny_bert_mlm, fields, message):
    with pytest.raises(DataError, match=message):
        task_for(masked(tiny_bert_mlm, 4)).encode(record(**fields))


def test_prediction_without_a_mask(tiny_bert_mlm):
    with pytest.raises(DataError, match="has no mask in its text"):
        task_for(masked(tiny_bert_mlm, 4)).encode(record(text="a cat"), labelled=False)


def test_a_model_without_a_mask_token(tiny_opt):
    with pytest.raises(BundleError, match="names no mask token"):
        task_for(masked(tiny_opt, None))
