"""Records of text generation as a prompt and its completion."""

from __future__ import annotations

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


def prompt_of(record: Record, chat: ChatTemplate, *, labelled: bool) -> Prompt:
    """Return the prompt and the completion of a record, by the first of these shapes that it has.

    - ``messages`` or ShareGPT ``conversations``: rendered by the model's chat template; the last turn of the
      assistant is the completion.
    - ``prompt`` and ``completion``: as they stand; the space between them belongs to one of them.
    - Alpaca's ``instruction``, ``input`` and ``output``: the prompt is the instruction, a blank line, the
      input and a blank line (both left out where there is no input); ``output`` is the completion.
    - ``text``: everything is the completion. Without labels, as for prediction, everything is the prompt.

    Raises:
        DataError: the record has none of these shapes.
    """
    for key in ("messages", "conversations"):
        if key in record.fields:
            return Prompt(*chat.split(_messages(record, key), record.where, labelled=labelled), complete=True)
    if "prompt" in record.fields:
        return Prompt(fields.text(record, "prompt"), fields.text(record, "completion") if labelled else "")
    if "instruction" in record.fields:
        return Prompt(_alpaca(record), fields.text(record, "output") if labelled else "")
    if fields.find(record, fields.TEXT_KEYS) is None and not fields.is_image(record):
        raise fields.missing(record, "prompt", _FIRST_KEYS, f"give {_SHAPES}")
    text, _ = fields.texts(record)
    return Prompt("", text) if labelled else Prompt(text, "")


def _alpaca(record: Record) -> str:
    parts = [
        fields.text(record, "instruction"),
        fields.text(record, "input") if record.fields.get("input") else "",
    ]
    return "".join(f"{part}\n\n" for part in parts if part)


# ShareGPT's names of the roles
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "function": "tool", "observation": "tool"}


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
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{record.where} has the turn {fields.short(turn)} in {key!r}: "
                f"give each turn a role and a content, both text"
            )
        messages.append({**turn, "role": _ROLES.get(role, role), "content": content})
    return messages
