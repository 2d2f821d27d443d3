from __future__ import annotations

import json
import shutil
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from zoedge.errors import DataError, MissingPackageError
from zoedge.runtime.data import Record
from zoedge.runtime.tasks import task_for

from ...tiny import WORDS
from ..bundles import generator

SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def record(**fields):
    return Record(fields, "data.jsonl:7")


def parts(example):
    """Return the tokens that are read and those that are learnt, and check that positions point at them."""
    ids, positions, labels = (
        example.inputs["input_ids"],
        example.inputs["label_positions"],
        example.targets["labels"],
    )
    assert example.length == len(ids) == len(example.inputs["attention_mask"])
    assert len(positions) == len(labels)
    whole = [*ids.tolist(), int(labels[-1])]
    assert [whole[p + 1] for p in positions] == labels.tolist()  # position p predicts the token after it
    return whole, labels.tolist()


@pytest.mark.parametrize("model", ["tiny_opt", "tiny_llama"])
def test_loss_is_on_the_completion_and_its_end(model, request):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = task_for(generator(folder, eos_id=tokenizer.eos_token_id))
    whole, labels = parts(task.encode(record(prompt="was it good ?", completion=" the movie was great")))
    assert whole == [*tokenizer("was it good ? the movie was great")["input_ids"], tokenizer.eos_token_id]
    prompt = tokenizer("was it good ?")["input_ids"]
    assert labels == whole[len(prompt) :]
    assert tokenizer.decode(labels, skip_special_tokens=True).strip() == "the movie was great"


def test_without_eos(tiny_opt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    whole, _ = parts(task_for(generator(tiny_opt)).encode(record(prompt="a", completion=" cat")))
    assert whole == tokenizer("a cat")["input_ids"]


def test_a_token_across_the_boundary_is_completion(tiny_opt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    whole, labels = parts(task_for(generator(tiny_opt)).encode(record(prompt="a mov", completion="ie")))
    assert whole == tokenizer("a movie")["input_ids"]
    assert tokenizer.decode(labels) == " movie"


def test_bos_is_put_in_front_where_the_tokenizer_does_not(tiny_gpt2):
    whole, labels = parts(
        task_for(generator(tiny_gpt2, bos_id=0, eos_id=0)).encode(record(prompt="a", completion=" cat"))
    )
    tokens = AutoTokenizer.from_pretrained(tiny_gpt2)
    assert whole == [0, *tokens("a cat")["input_ids"], 0]
    assert labels == whole[2:]


def test_text_is_learnt_whole(tiny_opt, tiny_gpt2):
    whole, labels = parts(task_for(generator(tiny_opt, eos_id=2)).encode(record(text="the cat")))
    assert whole[0] == whole[-1] == 2
    assert labels == whole[1:]
    # nothing predicts the first token of a text that nothing precedes
    whole, labels = parts(task_for(generator(tiny_gpt2)).encode(record(text="the cat")))
    assert labels == whole[1:]
    assert whole == AutoTokenizer.from_pretrained(tiny_gpt2)("the cat")["input_ids"]


def test_alpaca(tiny_opt):
    task = task_for(generator(tiny_opt))
    fields = {"instruction": "find the cat", "input": "cat dog", "output": "the cat"}
    same = task.encode(record(prompt="find the cat\n\ncat dog\n\n", completion="the cat"))
    assert parts(task.encode(record(**fields))) == parts(same)
    short = task.encode(record(prompt="find the cat\n\n", completion="the cat"))
    for empty in ("", None):
        assert parts(task.encode(record(**{**fields, "input": empty}))) == parts(short)


@cache
def limited(folder, longest):
    return task_for(generator(folder, eos_id=2, max_length=longest))


@given(prompt=SENTENCES, completion=SENTENCES, longest=st.integers(4, 40))
def test_too_long_rows_lose_the_start_of_the_prompt_then_the_end_of_the_completion(
    tiny_llama, prompt, completion, longest
):
    long, short = (limited(tiny_llama, most) for most in (1000, longest))
    fields = record(prompt=prompt, completion=f" {completion}")
    whole, labels = parts(long.encode(fields))
    got = short.encode(fields)
    cut, cut_labels = parts(got)
    assert got.length <= longest
    if len(whole) - 1 <= longest:
        assert (cut, cut_labels) == (whole, labels)
        return
    assert got.length == longest
    assert cut[0] == 1  # the first token stays
    room = longest + 1 - len(labels)
    if room >= 1:
        assert cut_labels == labels
        assert cut[1:] == whole[len(whole) - longest :]
    else:
        assert cut == [1, *labels[:longest]]


def test_prompt_alone_for_prediction(tiny_opt):
    task = task_for(generator(tiny_opt, eos_id=2))
    tokens = AutoTokenizer.from_pretrained(tiny_opt)
    for fields in ({"prompt": "was it"}, {"text": "was it"}, {"prompt": "was it", "completion": " good"}):
        example = task.encode(record(**fields), labelled=False)
        assert example.inputs["input_ids"].tolist() == tokens("was it")["input_ids"]
        assert example.inputs["label_positions"].tolist() == [example.length - 1]
        assert example.targets["labels"].shape == (1,)
    found = task.prediction(
        example, {"predictions": np.array([tokens(" good")["input_ids"][-1], -100, -100])}
    )
    assert found == {"text": " good"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a", "completion": ""}, r"data\.jsonl:7 has no completion to learn"),
        ({"prompt": "a"}, "has no completion: looked for completion, its fields are prompt"),
        ({"prompt": "a", "completion": 3}, "has 3 as 'completion', which must be text"),
        ({"instruction": "a"}, "has no output"),
        ({"question": "a", "answer": "b"}, r"has no prompt: .*fields are question, answer; give"),
        ({"messages": "hello"}, "has 'hello' as 'messages': give a list of objects with role and content"),
        ({"messages": []}, r"has \[\] as 'messages'"),
        ({"messages": [{"role": "user"}]}, r"has the turn \{'role': 'user'\} in 'messages'"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
         "is a conversation and the model has no chat template: give prompt and completion instead"),
        ({"images": np.zeros((4, 4))}, "holds an image and this bundle takes text"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit(tiny_opt, fields, message):
    with pytest.raises(DataError, match=message):
        task_for(generator(tiny_opt, eos_id=2)).encode(record(**fields))


def test_a_single_token_that_nothing_predicts(tiny_gpt2):
    with pytest.raises(DataError, match="has one token and nothing before it"):
        task_for(generator(tiny_gpt2)).encode(record(text="a"))
    with pytest.raises(DataError, match="has an empty prompt"):
        task_for(generator(tiny_gpt2)).encode(record(text=""), labelled=False)


# -- conversations ------------------------------------------------------------------------------------------

MESSAGES = [
    {"role": "system", "content": "you are a cat"},
    {"role": "user", "content": "was it good ?"},
    {"role": "assistant", "content": "not really"},
    {"role": "user", "content": "but the plot"},
    {"role": "assistant", "content": "dull"},
]


@pytest.fixture(scope="module", params=["chat_template.jinja", "tokenizer_config.json", "named"])
def chat_model(tiny_llama, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_llama, folder)
    if request.param == "chat_template.jinja":
        (folder / request.param).write_text(CHAT)
        return folder
    path = folder / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT}]
    config = json.loads(path.read_text()) | {"chat_template": named if request.param == "named" else CHAT}
    path.write_text(json.dumps(config))
    return folder


def test_conversation_as_transformers_renders_it(chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    task = task_for(generator(chat_model, eos_id=2, max_length=500))
    whole, labels = parts(task.encode(record(messages=MESSAGES)))
    assert whole == tokenizer.apply_chat_template(MESSAGES)
    assert whole[: len(whole) - len(labels)] == tokenizer.apply_chat_template(
        MESSAGES[:-1], add_generation_prompt=True
    )
    assert tokenizer.decode(labels) == "dull</s>"
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in MESSAGES]
    assert parts(task.encode(record(conversations=sharegpt))) == (whole, labels)


def test_conversation_for_prediction(chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    task = task_for(generator(chat_model, eos_id=2))
    expected = tokenizer.apply_chat_template(MESSAGES[:-1], add_generation_prompt=True)
    for messages in (MESSAGES, MESSAGES[:-1]):
        assert task.encode(record(messages=messages), labelled=False).inputs["input_ids"].tolist() == expected


def test_long_conversation_keeps_its_first_token(chat_model):
    whole, labels = parts(task_for(generator(chat_model, max_length=30)).encode(record(messages=MESSAGES)))
    assert whole[0] == 1
    assert len(whole) == 31
    assert AutoTokenizer.from_pretrained(chat_model).decode(labels) == "dull</s>"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (CHAT, MESSAGES[:-1], "ends with a turn of 'user': let the assistant's be the last"),
        (
            "{{ raise_exception('no system turn') }}",
            MESSAGES,
            r"refused by the model's chat template \(no system turn\)",
        ),
        ("{{ messages | length }}", MESSAGES, "can't be split into prompt and reply"),
        (
            "{{ messages.__class__.__mro__ }}",
            MESSAGES,
            "is refused by the model's chat template",
        ),  # a sandbox
    ],
)
def test_conversations_that_do_not_work(tiny_llama, tmp_path, template, messages, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=message):
        task_for(generator(folder)).encode(record(messages=messages))


def test_conversation_without_jinja2(chat_model, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "jinja2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        MissingPackageError, match=r"a data set of conversations needs .* pip install 'zoedge\[chat\]'"
    ):
        task_for(generator(chat_model)).encode(record(messages=MESSAGES))
