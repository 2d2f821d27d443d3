"""Conversations as text, by the model's own chat template (Jinja)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, DataError, MissingPackageError

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"

Messages = Sequence[dict[str, Any]]
Tools = Sequence[Any]

_TURN_PARTS = ("tool_calls", "reasoning_content", "thinking")  # of a turn, beside its content


class ChatTemplate:
    """The chat template of a bundle: ``chat_template.jinja``, or the one in ``tokenizer_config.json``.

    It is compiled on first use, so that only conversations need it and the package jinja2. Templates see
    what transformers gives them, except the date: a run must not depend on the day.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def split(
        self, messages: Messages, where: str, *, labelled: bool, tools: Tools | None = None
    ) -> tuple[str, str]:
        """Return the text up to the assistant's last turn, and that turn.

        Args:
            messages: turns with ``role`` and ``content``.
            where: the record, for errors.
            labelled: False: a last turn of the assistant is left out and the second text is empty.
            tools: descriptions of functions that the assistant may call, as the template takes them.

        Raises:
            DataError: the assistant doesn't have the last turn, there is no chat template, it refuses, or it leaves
                out a turn, tools or calls of them.
            MissingPackageError: jinja2 isn't installed.
        """
        answered = messages[-1]["role"] == "assistant"
        if labelled and not answered:
            raise DataError(
                f"{where} ends with a turn of {messages[-1]['role']!r}: let the assistant's be the last"
            )
        asked = messages[:-1] if answered else messages
        prompt = self._render(asked, tools, where, reply=True)
        if not labelled:
            self._check_shown(asked, tools, prompt, where)
            return prompt, ""
        whole = self._render(messages, tools, where, reply=False)
        if not whole.startswith(prompt):
            raise DataError(
                f"{where} can't be split into prompt and reply, as this chat template renders earlier turns "
                f"differently once there is a reply: give prompt and completion instead"
            )
        self._check_shown(messages, tools, whole, where)
        return prompt, whole[len(prompt) :]

    def _check_shown(self, messages: Messages, tools: Tools | None, text: str, where: str) -> None:
        """Refuse what the template would drop without a word."""
        for turn in messages:
            content = turn["content"].strip()
            shown = content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text
            if not shown and not self._reasons_apart(turn):
                raise DataError(
                    f"{where} has a turn of {turn['role']!r} that the model's chat template leaves out: "
                    f"remove it or give prompt and completion instead"
                )
        given = {name for turn in messages for name in _TURN_PARTS if turn.get(name)}
        given |= {"tools"} if tools else set()
        for name in sorted(given):
            if name not in (self._source or ""):
                raise DataError(
                    f"{where} has {name!r}, which the model's chat template leaves out: "
                    f"remove it or give prompt and completion instead"
                )

    def _reasons_apart(self, turn: dict[str, Any]) -> bool:
        """Tell whether a turn holds thoughts that templates take off earlier turns, as they are meant to."""
        return "</think>" in turn["content"] and "</think>" in (self._source or "")

    def _render(self, messages: Messages, tools: Tools | None, where: str, *, reply: bool) -> str:
        if self._source is None:
            raise DataError(
                f"{where} is a conversation and the model has no chat template: "
                f"give prompt and completion instead"
            )
        template = self._template
        given = {"tools": list(tools) if tools else None, "documents": None, **self._special_tokens}
        try:
            return template.render(messages=list(messages), add_generation_prompt=reply, **given)
        except _template_errors() as error:
            raise DataError(
                f"{where} is refused by the model's chat template ({error}): "
                f"correct its turns or give prompt and completion instead"
            ) from error

    @cached_property
    def _config(self) -> dict[str, Any]:
        path = self._bundle.path(CONFIG_FILE)
        if not path.is_file():
            return {}
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BundleError(f"{path} can't be read ({error}): export the bundle again") from error
        return config

    @cached_property
    def _source(self) -> str | None:
        path = self._bundle.path(TEMPLATE_FILE)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        found = self._config.get("chat_template")
        if isinstance(found, list):  # several named ones
            found = next((item["template"] for item in found if item.get("name") == "default"), None)
        return found

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        tokens = {key: value for key, value in self._config.items() if key.endswith("_token")}
        written = {
            key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()
        }
        return {key: value for key, value in written.items() if isinstance(value, str)}

    @cached_property
    def _template(self) -> Template:
        try:
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingPackageError("jinja2", "chat", "a data set of conversations") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self._source or "")
        except _template_errors() as error:
            raise BundleError(f"the chat template in {self._bundle.folder} is malformed ({error})") from error


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, KeyError


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
