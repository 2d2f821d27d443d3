import pytest
from transformers import AutoModel, AutoTokenizer

from tests.builders.tiny import POSITIONS
from zoedge.errors import InputError
from zoedge.export.sources.hf_text import input_names, plain_ids, positions, text_settings


def load(folder):
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["tiny_bert", "tiny_distilbert_mlm", "tiny_roberta_mlm", "tiny_opt", "tiny_gpt2", "tiny_llama"]
)
def test_positions_are_what_the_model_takes(name, request):
    model, tokenizer = load(request.getfixturevalue(name))
    assert positions(model) == POSITIONS
    word = plain_ids(model, tokenizer)[-1]
    batch = tokenizer.convert_ids_to_tokens([word] * POSITIONS)
    ids = {"input_ids": _ids(tokenizer, batch), "attention_mask": _ids(tokenizer, batch) * 0 + 1}
    model(**ids)  # the longest that is promised runs


def _ids(tokenizer, tokens):
    import torch

    return torch.tensor([tokenizer.convert_tokens_to_ids(tokens)])


def test_roberta_takes_no_more_than_that(tiny_roberta_mlm):
    model, tokenizer = load(tiny_roberta_mlm)
    ids = _ids(tokenizer, ["a"] * (POSITIONS + 1))
    with pytest.raises(IndexError):
        model(input_ids=ids, attention_mask=ids * 0 + 1)


def test_special_tokens_of_a_causal_model(tiny_opt, tiny_gpt2, tiny_llama):
    opt = text_settings(*load(tiny_opt), None, causal=True)
    assert (opt.pad_id, opt.bos_id, opt.eos_id, opt.mask_id) == (1, None, 2, None)  # its file adds </s>
    gpt2 = text_settings(*load(tiny_gpt2), None, causal=True)
    assert (gpt2.pad_id, gpt2.bos_id, gpt2.eos_id) == (0, None, 0)  # padded with its end token
    llama = text_settings(*load(tiny_llama), None, causal=True)
    assert (llama.pad_id, llama.bos_id, llama.eos_id) == (2, None, 2)


def test_a_first_token_that_the_file_does_not_add(tiny_gpt2):
    model, tokenizer = load(tiny_gpt2)
    tokenizer.add_bos_token = True
    assert text_settings(model, tokenizer, None, causal=True).bos_id == 0


def test_masked_models_name_their_mask(tiny_bert, tiny_roberta_mlm):
    assert text_settings(*load(tiny_bert), None, causal=False).mask_id == 4
    roberta = text_settings(*load(tiny_roberta_mlm), None, causal=False)
    assert (roberta.mask_id, roberta.pad_id, roberta.eos_id) == (4, 1, None)


@pytest.mark.parametrize(("asked", "wanted"), [(None, 64), (16, 16), (9999, 64), (1, 1)])
def test_length(tiny_bert, asked, wanted):
    assert text_settings(*load(tiny_bert), asked, causal=False).max_length == wanted


@pytest.mark.parametrize("asked", [0, -5])
def test_a_length_below_one(tiny_bert, asked):
    with pytest.raises(InputError, match=f"--max-seq-length {asked} should be 1 or more"):
        text_settings(*load(tiny_bert), asked, causal=False)


def test_the_tokenizers_own_limit_counts(tiny_bert):
    model, tokenizer = load(tiny_bert)
    tokenizer.model_max_length = 48
    assert text_settings(model, tokenizer, None, causal=False).max_length == 48


def test_token_types_only_where_the_model_has_them(tiny_bert, tiny_roberta_mlm, tiny_llama):
    three = ("input_ids", "attention_mask", "token_type_ids")
    assert input_names(*load(tiny_bert)) == three
    assert input_names(*load(tiny_roberta_mlm)) == three[:2]
    assert input_names(*load(tiny_llama)) == three[:2]  # its tokenizer offers them, the model has none


def test_plain_ids_leave_out_special_ones(tiny_bert):
    model, tokenizer = load(tiny_bert)
    ids = plain_ids(model, tokenizer)
    assert set(ids) == set(range(5, model.config.vocab_size))
