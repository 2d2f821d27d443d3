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

from tests.builders.bundles import generator
from tests.builders.tiny import WORDS
from zoedge.errors import DataError, MissingPackageError
from zoedge.runtime.data import Record
from zoedge.runtime.tasks import task_for
from zoedge.runtime.tasks.chat import ChatTemplate
from zoedge.runtime.tasks.prompts import prompt_of

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
        MissingPackageError, match=r"a data set of conversations needs .* pip install 'jinja2>="
    ):
        task_for(generator(chat_model)).encode(record(messages=MESSAGES))


# -- fields beside a shape's own ----------------------------------------------------------------------------

TALK = [{"from": "human", "value": "good film ?"}, {"from": "gpt", "value": "yes"}]
TURNS = [{"role": "user", "content": "good film ?"}, {"role": "assistant", "content": "yes"}]
TOOLS = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]
TOOL_CHAT = (
    "{% if tools %}<tools>{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls %}<call>{{ call | tojson }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prompt_by(folder, template, tmp_path, labelled=True, **fields):
    shutil.copytree(folder, tmp_path / "model", dirs_exist_ok=True)
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    chat = ChatTemplate(generator(tmp_path / "model"))
    return prompt_of(record(**fields), chat, labelled=labelled)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "text"])
@pytest.mark.parametrize("talk", [{"conversations": TALK}, {"messages": TURNS}], ids=["sharegpt", "openai"])
def test_system_and_tools_reach_the_template(tiny_llama, tmp_path, talk, tools):
    shown = "<tools>" + json.dumps(TOOLS) + "<system>BRIEF<user>good film ?<assistant>"
    for labelled in (True, False):
        found = prompt_by(tiny_llama, TOOL_CHAT, tmp_path, labelled, **talk, system="BRIEF", tools=tools)
        assert found == (shown, "yes" if labelled else "", True)


def test_turns_that_call_tools(tiny_llama, tmp_path):
    call = {"name": "lookup", "arguments": {}}
    turns = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    found = prompt_by(tiny_llama, TOOL_CHAT, tmp_path, messages=turns)
    assert found.completion == "<call>" + json.dumps(call)
    with pytest.raises(
        DataError, match=r"data\.jsonl:7 has 'tool_calls', which the model's chat template leaves out"
    ):
        prompt_by(tiny_llama, CHAT, tmp_path, messages=turns)


def test_prompt_and_completion_as_turns(tiny_llama, tmp_path):
    found = prompt_by(tiny_llama, TOOL_CHAT, tmp_path, prompt=TURNS[:1], completion=TURNS[1:])
    assert found == ("<user>good film ?<assistant>", "yes", True)
    asked = prompt_by(tiny_llama, TOOL_CHAT, tmp_path, False, prompt=TURNS[:1])
    assert asked == ("<user>good film ?<assistant>", "", True)


ALPACA = {"instruction": "good film ?", "input": "", "output": "yes"}
DOLLY = {"instruction": "good film ?", "context": "a film", "response": "yes", "category": "closed_qa"}


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        (DOLLY, "good film ?\n\na film\n\n"),
        ({**DOLLY, "context": ""}, "good film ?\n\n"),
        ({**ALPACA, "system": "BRIEF"}, "BRIEF\n\ngood film ?\n\n"),
        ({**ALPACA, "history": [["EARLIER", "no"]]}, "EARLIER\n\nno\n\ngood film ?\n\n"),
        ({**ALPACA, "system": "", "history": [], "tools": "", "context": None}, "good film ?\n\n"),
    ],
)
def test_instructions_with_what_stands_before_them(tiny_llama, tmp_path, fields, prompt):
    assert prompt_by(tiny_llama, CHAT, tmp_path, **fields) == (prompt, "yes", False)
    unlabelled = {name: value for name, value in fields.items() if name not in ("output", "response")}
    assert prompt_by(tiny_llama, CHAT, tmp_path, False, **unlabelled) == (prompt, "", False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "a", "completion": "b", "system": "BRIEF"},
            "has 'system' beside 'prompt', which has no place",
        ),
        ({"prompt": "a", "completion": "b", "history": [["x", "y"]]}, "has 'history' beside 'prompt'"),
        ({"text": "a", "system": "BRIEF"}, "has 'system' beside 'text'"),
        ({**ALPACA, "tools": TOOLS}, "has 'tools' beside 'instruction'"),
        ({"messages": TURNS, "history": [["x", "y"]]}, "has 'history' beside 'messages'"),
        ({"messages": TURNS, "documents": [{}]}, "has 'documents' beside 'messages'"),
        (
            {"messages": [{"role": "system", "content": "a"}, *TURNS], "system": "b"},
            "has both 'system' and a first turn",
        ),
        ({"messages": TURNS, "tools": TOOLS}, "has 'tools', which the model's chat template leaves out"),
        ({"messages": TURNS, "tools": "{"}, "has '{' as 'tools': give a list"),
        ({**DOLLY, "input": "b"}, "has both 'input' and 'context'"),
        ({**DOLLY, "output": "b"}, "has both 'output' and 'response'"),
        ({**ALPACA, "history": [["x"]]}, r"has \[\['x'\]\] as 'history': give a list of pairs"),
        ({**ALPACA, "history": [["x", 3]]}, "has 3 in 'history', which must be text"),
        ({**ALPACA, "output": float("nan")}, "has nan as 'output', a missing value"),
    ],
)
def test_what_has_no_place_is_refused_by_name(tiny_llama, tmp_path, fields, message):
    with pytest.raises(DataError, match=message):
        prompt_by(tiny_llama, CHAT, tmp_path, **fields)


def test_a_template_that_drops_turns_is_refused(tiny_llama, tmp_path):
    users = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    users += "{% if add_generation_prompt %}<assistant>{% endif %}"
    assert prompt_by(tiny_llama, users, tmp_path, messages=TURNS).completion == "yes"
    with pytest.raises(DataError, match="has a turn of 'system' that the model's chat template leaves out"):
        prompt_by(tiny_llama, users, tmp_path, messages=TURNS, system="BRIEF")


# -- rows that are too long ---------------------------------------------------------------------------------


@given(
    prompt=SENTENCES,
    completion=SENTENCES,
    longest=st.integers(4, 40),
    side=st.sampled_from(["left", "right"]),
)
def test_the_side_that_prompts_lose(tiny_llama, prompt, completion, longest, side):
    task = task_for(generator(tiny_llama, eos_id=2, max_length=longest), 0, side)
    fields = record(prompt=prompt, completion=f" {completion}")
    whole, labels = parts(limited(tiny_llama, 1000).encode(fields))
    example = task.encode(fields)
    cut, cut_labels = parts(example)
    assert len(cut_labels) > 0  # a completion is never cut away
    assert cut_labels == labels[: len(cut_labels)]
    assert example.cut == len(whole) - len(cut)
    asked, kept = whole[: len(whole) - len(labels)], cut[: len(cut) - len(cut_labels)]
    assert kept[0] == asked[0] == 1
    assert kept[1:] == (asked[1 : len(kept)] if side == "right" else asked[len(asked) - len(kept) + 1 :])


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_the_side_that_a_text_alone_loses(tiny_llama, side):
    text = " ".join(WORDS[:30])
    whole, _ = parts(limited(tiny_llama, 1000).encode(record(text=text)))
    example = task_for(generator(tiny_llama, eos_id=2, max_length=8), 0, side).encode(record(text=text))
    cut, labels = parts(example)
    assert cut == ([1, *whole[-8:]] if side == "left" else whole[:9])
    assert labels == cut[1:]
    assert example.cut == len(whole) - 9
