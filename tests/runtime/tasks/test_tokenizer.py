from __future__ import annotations

import shutil
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.builders.bundles import arrays, classifier, generator
from tests.builders.tiny import WORDS
from zoedge.errors import BundleError, InputError
from zoedge.runtime.tasks.tokenizer import TextTokenizer

SENTENCES = st.lists(st.sampled_from([*WORDS, "xyzzy", "!", "é"]), max_size=12).map(" ".join)
MODELS = ("tiny_bert", "tiny_roberta", "tiny_opt", "tiny_llama", "tiny_gpt2")

transformers_tokenizer = cache(AutoTokenizer.from_pretrained)


@cache
def tokenizer(folder):
    return TextTokenizer(classifier(folder))


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=SENTENCES, second=st.none() | SENTENCES, max_length=st.integers(5, 20))
def test_the_same_tokens_as_transformers(model, request, first, second, max_length):
    folder = request.getfixturevalue(model)
    theirs = transformers_tokenizer(folder)(first, second, truncation="longest_first", max_length=max_length)
    ours = tokenizer(folder).encode(first, second, max_length)
    assert ours.ids == theirs["input_ids"]
    if "token_type_ids" in theirs:
        assert ours.type_ids == theirs["token_type_ids"]


@pytest.mark.parametrize("model", MODELS)
def test_ids_are_without_special_tokens(model, request):
    folder = request.getfixturevalue(model)
    theirs = transformers_tokenizer(folder)
    text = "the movie was great !"
    ids = tokenizer(folder).ids(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(folder).decode([*theirs.all_special_ids, *ids]) == theirs.decode(ids)


def test_prefix_is_what_the_tokenizer_adds_in_front(tiny_opt, tiny_llama, tiny_gpt2, tiny_bert):
    assert tokenizer(tiny_opt).prefix == (2,)
    assert tokenizer(tiny_llama).prefix == (1,)
    assert tokenizer(tiny_bert).prefix == (2,)  # without the [SEP] behind
    assert tokenizer(tiny_gpt2).prefix == ()


def test_bos_is_added_once(tiny_opt, tiny_gpt2):
    assert TextTokenizer(generator(tiny_gpt2, bos_id=0)).prefix == (0,)
    assert TextTokenizer(generator(tiny_opt, bos_id=2)).prefix == (2,)


def test_truncation_and_padding_of_the_file_are_switched_off(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    inner = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    inner.enable_truncation(4)
    inner.enable_padding(length=16)
    inner.save(str(folder / "tokenizer.json"))
    assert len(TextTokenizer(classifier(folder)).encode("the movie was great").ids) == 6


def test_missing_or_damaged(tiny_bert, tmp_path):
    for name in ("config.json", "tokenizer_config.json", "vocab.txt", "tokenizer.json"):
        if (tiny_bert / name).exists():
            shutil.copy(tiny_bert / name, tmp_path / name)
    bundle = classifier(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json can't be read .*: export the bundle again"):
        TextTokenizer(bundle)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"has no tokenizer\.json"):
        TextTokenizer(bundle)


def test_a_bundle_without_text():
    with pytest.raises(
        InputError, match="bundle takes no text \\(classification\\): choose data that fits it"
    ):
        TextTokenizer(arrays())


def test_token_that_is_not_in_the_vocabulary(tiny_bert):
    assert tokenizer(tiny_bert).token(4) == "[MASK]"
    with pytest.raises(BundleError, match="no token 123456"):
        tokenizer(tiny_bert).token(123456)
