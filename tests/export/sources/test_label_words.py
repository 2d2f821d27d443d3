import pytest
from transformers import AutoTokenizer

from zoedge.errors import InputError
from zoedge.export.sources.label_words import check_template, label_word_ids

WORDS = ("great", "terrible")


@pytest.mark.parametrize(
    ("model", "template", "causal", "pieces"),
    [
        ("tiny_opt", "{text} it was {label}", True, ["Ġgreat", "Ġterrible"]),
        ("tiny_opt", "{text} it was {label} .", True, ["Ġgreat", "Ġterrible"]),
        ("tiny_gpt2", "{text} it was {label}", True, ["Ġgreat", "Ġterrible"]),
        ("tiny_llama", "{text} it was {label}", True, ["▁great", "▁terrible"]),
        ("tiny_roberta_mlm", "{text} it was {label}.", False, ["Ġgreat", "Ġterrible"]),
        ("tiny_bert_mlm", "{text} it was {label}!", False, ["great", "terrible"]),
        ("tiny_bert_mlm", "{label} : {text}", False, ["great", "terrible"]),
        ("tiny_bert_mlm", "{premise} ? {label} , {hypothesis}", False, ["great", "terrible"]),
    ],
)
def test_one_token_in_context(model, template, causal, pieces, request):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(model))
    check_template(template, causal=causal)
    ids = label_word_ids(tokenizer, template, WORDS, causal=causal)
    assert tokenizer.convert_ids_to_tokens(ids) == pieces


def test_the_causal_word_is_what_follows_the_prompt(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = label_word_ids(tokenizer, "{text} it was {label}", WORDS, causal=True)
    prompt = tokenizer("the movie it was").input_ids
    assert tokenizer("the movie it was terrible").input_ids == [*prompt, ids[1]]


def test_a_word_of_several_tokens_is_named_with_its_pieces(tiny_opt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    with pytest.raises(InputError, match=r"'xyzzy' is \d tokens in the template \(Ġ x y z z y\)"):
        label_word_ids(tokenizer, "{text} it was {label}", ("great", "xyzzy"), causal=True)


def test_a_masked_word_of_several_tokens(tiny_bert_mlm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_mlm)
    with pytest.raises(InputError, match=r"'ab' is 2 tokens in the template \(a ##b\)"):
        label_word_ids(tokenizer, "{text} it was {label} .", ("great", "ab"), causal=False)


def test_two_words_of_one_token(tiny_bert_mlm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_mlm)
    with pytest.raises(InputError, match="'great' and 'Great' are the same token"):
        label_word_ids(tokenizer, "{text} it was {label} .", ("great", "Great"), causal=False)


def test_too_few_words(tiny_opt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    with pytest.raises(InputError, match="needs the label words"):
        label_word_ids(tokenizer, "{text} it was {label}", (), causal=True)


@pytest.mark.parametrize(
    ("template", "causal", "message"),
    [
        ("{text} it was", False, "once {label}"),
        ("{label} and {label} {text}", False, "once {label}"),
        ("it was {label}", False, "should name {text}"),
        ("{} it was {label}", False, "should name {text}"),
        ("{text it was {label}", False, "can't be read"),
        ("{label} {text}", True, "reads from left to right"),
    ],
)
def test_bad_templates(template, causal, message):
    with pytest.raises(InputError, match=message):
        check_template(template, causal=causal)
