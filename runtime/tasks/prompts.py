"""Records of text generation as a prompt and its completion."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from zoedge.errors import DataError

from ..data.record import Record
from . import fields
from .chat import ChatTemplate


class Prompt(NamedTuple):
    """What the model reads, what it should write, and whether both come with their special tokens."""

    text: str
    completion: str
    complete: bool = False  # True: a chat template has written the special tokens


_FIRST_KEYS = ("prompt", "messages", "conversations", "instruction", "text")
_SHAPES = (
    "prompt and completion; instruction, input and output; messages; conversations; or text "
    "(name other columns with --prompt-key, --completion-key, --chat-key or --text-key)"
)
# what other trainers read beside a shape's own fields
_EXTRA = ("system", "history", "tools", "functions", "documents", "images", "videos", "audios", "weight")


def prompt_of(record: Record, chat: ChatTemplate, *, labelled: bool) -> Prompt:
    """Return the prompt and the completion of a record, by the first of these shapes that it has.

    - ``messages`` or ShareGPT ``conversations``: rendered by the model's chat template; the last turn of the
      assistant is the completion. ``system`` is the first turn, and ``tools`` (a list, or JSON text of one) go to
      the template. TRL's ``prompt`` and ``completion``, both lists of turns, are one conversation.
    - ``prompt`` and ``completion``: as they stand; the space between them belongs to one of them.
    - Alpaca's ``instruction``, ``input`` and ``output``, or Dolly's ``instruction``, ``context`` and ``response``
      (its ``category`` describes the row and is no part of it): the prompt is the instruction, a blank line, the
      input and a blank line (both left out where there is no input); the output is the completion. ``system`` and
      the pairs of ``history`` come before it, each text followed by a blank line.
    - ``text``: everything is the completion. Without labels, as for prediction, everything is the prompt.

    Raises:
        DataError: the record has none of these shapes, or a field beside them that this shape has no place for.
    """
    key = next((k for k in ("messages", "conversations") if k in record.fields), None)
    if key is None and isinstance(record.fields.get("prompt"), list):
        key = "prompt"
    if key is not None:
        _check_extra(record, key, used=("system", "tools"))
        messages, tools = _conversation(record, key), _tools(record)
        return Prompt(*chat.split(messages, record.where, labelled=labelled, tools=tools), complete=True)
    if "prompt" in record.fields:
        _check_extra(record, "prompt")
        return Prompt(fields.text(record, "prompt"), fields.text(record, "completion") if labelled else "")
    if "instruction" in record.fields:
        _check_extra(record, "instruction", used=("system", "history"))
        output = _one_of(record, "output", "response")
        return Prompt(_alpaca(record), fields.text(record, output) if labelled else "")
    if fields.find_field(record, fields.TEXT_KEYS) is None and not fields.is_image(record):
        raise fields.missing(record, "prompt", _FIRST_KEYS, f"give {_SHAPES}")
    text, _ = fields.texts(record)
    _check_extra(record, "text")
    return Prompt("", text) if labelled else Prompt(text, "")


def prompt_shape(record: Record) -> str:
    """Return which of these shapes a record has: "messages", "prompt", "instruction", "text"; "" for none."""
    if any(k in record.fields for k in ("messages", "conversations")):
        return "messages"
    if "prompt" in record.fields:
        return "messages" if isinstance(record.fields["prompt"], list) else "prompt"
    if "instruction" in record.fields:
        return "instruction"
    return "text" if fields.find_field(record, fields.TEXT_KEYS) is not None else ""


def _check_extra(record: Record, shape: str, used: tuple[str, ...] = ()) -> None:
    """Refuse a field that other trainers would show to the model and this shape would drop."""
    for name in _EXTRA:
        if name not in used and _given(record, name):
            raise DataError(
                f"{record.where} has {name!r} beside {shape!r}, which has no place for it: "
                f"give messages for the model's chat template, write it into the prompt, or remove it"
            )


def _given(record: Record, name: str) -> bool:
    value = record.fields.get(name)
    return not fields.is_missing(value) and (not isinstance(value, str | list | dict) or len(value) > 0)


def _one_of(record: Record, first: str, second: str) -> str:
    """Return which of two names of one field the record has; the first where it has neither."""
    if _given(record, first) and _given(record, second):
        raise DataError(f"{record.where} has both {first!r} and {second!r}: keep one of them")
    return second if second in record.fields and not _given(record, first) else first


def _alpaca(record: Record) -> str:
    aside = _one_of(record, "input", "context")
    parts = [
        fields.text(record, "system") if _given(record, "system") else "",
        *_history(record),
        fields.text(record, "instruction"),
        fields.text(record, aside) if _given(record, aside) else "",
    ]
    return "".join(f"{part}\n\n" for part in parts if part)


def _history(record: Record) -> list[str]:
    """Return the texts of earlier turns: ``history`` is a list of pairs, question and answer."""
    pairs = record.fields["history"] if _given(record, "history") else []
    if not isinstance(pairs, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise DataError(
            f"{record.where} has {fields.short(pairs)} as 'history': give a list of pairs, question and answer"
        )
    texts = [text for pair in pairs for text in pair]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"{record.where} has {fields.short(wrong)} in 'history', which must be text")
    return texts


# ShareGPT's names of the roles
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "function": "tool", "observation": "tool"}


def _conversation(record: Record, key: str) -> list[dict[str, Any]]:
    """Return all turns of a conversation, a system prompt in a field of its own included."""
    messages = _messages(record, key)
    if key == "prompt" and _given(record, "completion"):
        messages += _messages(record, "completion")
    if not _given(record, "system"):
        return messages
    if messages[0]["role"] == "system":
        raise DataError(
            f"{record.where} has both 'system' and a first turn of 'system' in {key!r}: keep one of them"
        )
    return [{"role": "system", "content": fields.text(record, "system")}, *messages]


def _tools(record: Record) -> list[Any] | None:
    """Return the tools of a conversation; they may be written as JSON text."""
    tools = record.fields["tools"] if _given(record, "tools") else None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            tools = 0
    if tools is not None and not isinstance(tools, list):
        raise DataError(
            f"{record.where} has {fields.short(record.fields['tools'])} as 'tools': give a list of descriptions"
        )
    return tools or None


def _messages(record: Record, key: str) -> list[dict[str, Any]]:
    """Return a conversation as messages with ``role`` and ``content``."""
    turns = record.fields[key]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{record.where} has {fields.short(turns)} as {key!r}: "
            f"give a list of objects with role and content"
        )
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if content is None and turn.get("tool_calls"):
            content = ""  # as OpenAI writes a turn that only calls
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{record.where} has the turn {fields.short(turn)} in {key!r}: "
                f"give each turn a role and a content, both text"
            )
        messages.append({**turn, "role": _ROLES.get(role, role), "content": content})
    return messages
