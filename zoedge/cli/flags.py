"""Flags: those that several commands share, and those that derive from settings of runs, methods and adapters."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from ..adapters import ADAPTERS
from ..errors import InputError, MissingPackageError
from ..methods import RECIPES, having
from ..options import FACTS, TuneOptions, hint
from ..settings import Setting, facts, flag, kind

Function = TypeVar("Function", bound=Callable[..., Any])

KEYS = tuple(name for name in FACTS if name.endswith("_key"))
_COMMON = "Options"
_LATE = "{late}"
_EXPERT = "Options that only override what is measured or chosen"
_METHODS = "Options of methods (zoedge methods says which has what)"
_ADAPTERS = "Options of kinds of adapters"
_TYPES: dict[object, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}


class AliasedOption(click.Option):
    """An option some of whose names the help leaves out, and which the help lists in a group.

    ``late`` returns what stands for ``{late}`` in its help: what is too heavy to import before that is shown.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        aliases: Sequence[str] = (),
        group: str | None = None,
        late: Callable[[], str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__([*names, *aliases], **settings)
        self._aliases = frozenset(aliases)
        self._late = late
        self.group = group or _COMMON

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of the help."""
        with self._shown(), self._told():
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the option's name for an error."""
        with self._shown():
            return super().get_error_hint(ctx)

    @contextmanager
    def _told(self) -> Iterator[None]:
        text = self.help
        if self._late is not None and text is not None:
            self.help = text.replace(_LATE, self._late())
        try:
            yield
        finally:
            self.help = text

    @contextmanager
    def _shown(self) -> Iterator[None]:
        names = self.opts
        self.opts = [name for name in names if name not in self._aliases]
        try:
            yield
        finally:
            self.opts = names


class GroupedCommand(click.Command):
    """A command with flags that derive from settings, in groups; one that isn't given comes as None."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, and those of the settings that there are by now."""
        *named, shown = super().get_params(ctx)  # the last one is --help
        return [*named, *self.derived(), shown]

    def derived(self) -> Iterator[AliasedOption]:
        """Yield the flags that derive from settings."""
        raise NotImplementedError

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "group", _COMMON), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


class AdapterCommand(GroupedCommand):
    """A command with one flag per setting of kinds of adapters."""

    def derived(self) -> Iterator[AliasedOption]:
        """Yield what kinds of adapters have of their own."""
        for name, modules in ADAPTERS.items():
            options = modules.options
            for setting_name, setting in facts(options).items():
                told = replace(setting, help=f"{name}: {setting.help}")
                shown = _shown(getattr(options(), setting_name))
                yield _flag(setting_name, told, kind(options, setting_name), shown, _ADAPTERS)


class SettingsCommand(GroupedCommand):
    """A command with one flag per setting of runs and of methods."""

    def derived(self) -> Iterator[AliasedOption]:
        """Yield the settings of runs, and those of methods."""
        yield from _of_runs()
        yield from _of_methods()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say of a flag that doesn't exist what it is called here."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            told = hint(error.option_name)
            if not told or told.startswith("; did you mean"):
                raise  # click knows the flags that look like it
            raise InputError(f"there is no {error.option_name}{told}") from error


def _of_runs() -> Iterator[AliasedOption]:
    for name, setting in FACTS.items():
        group = _EXPERT if setting.expert else _COMMON
        shown = _shown(getattr(TuneOptions(), name))
        yield _flag(name, setting, kind(TuneOptions, name), shown, group)


def _of_methods() -> Iterator[AliasedOption]:
    """Yield the flags of what methods have of their own, each once."""
    first = {name: recipe.options for recipe in reversed(RECIPES.values()) for name in facts(recipe.options)}
    for name, options in sorted(first.items(), key=lambda item: item[0]):
        methods = having(name)
        defaults = {getattr(recipe.options(), name) for recipe in methods}
        shown = _shown(defaults.pop()) if len(defaults) == 1 else "  [default: the method's]"
        only = "" if len(methods) == len(RECIPES) else f"{', '.join(r.name for r in methods)}: "
        setting = facts(options)[name]
        yield _flag(name, replace(setting, help=only + setting.help), kind(options, name), shown, _METHODS)


def _shown(default: object) -> str:
    return "" if default is None else f"  [default: {default}]"


def _flag(name: str, setting: Setting, type_: object, shown: str, group: str) -> AliasedOption:
    names = [name, *([setting.short] if setting.short else []), flag(name)]
    late = _providers if name == "provider" else None
    help_ = setting.help + (_LATE if late else "") + shown
    return AliasedOption(
        names, aliases=setting.aliases, type=_click_type(type_), help=help_, group=group, late=late
    )


def _click_type(type_: object) -> click.ParamType[Any]:
    if typing.get_origin(type_) is Literal:
        return click.Choice(typing.get_args(type_))
    return _TYPES[type_]


def output(what: str) -> Callable[[Function], Function]:
    """Return the decorator of ``-o``; ``what`` says what is written."""
    return click.option(
        "output",
        "-o",
        "--out",
        cls=AliasedOption,
        aliases=("--output-dir",),
        type=click.Path(path_type=Path),
        required=True,
        help=what,
    )


def data(*, required: bool) -> Callable[[Function], Function]:
    """Return the decorator of ``--data``."""
    text = f"a {_LATE} file, a folder of {{train,valid,test}} files, or a hub id"
    return click.option(
        "data", "-d", "--data", cls=AliasedOption, required=required, help=text, late=_formats
    )


def _formats() -> str:
    from zoedge.runtime.data.read import READERS

    *most, last = READERS
    return f"{', '.join(most)} or {last}"


def _providers() -> str:
    """Return the providers in brackets; "" where none could run anything, and so none can be asked for."""
    try:
        from zoedge.runtime.device import DEVICES
    except MissingPackageError:
        return ""
    return f" ({', '.join(DEVICES)})"


def provider(function: Function) -> Function:
    """Give a command ``--provider``."""
    text = f"{FACTS['provider'].help}{_LATE}"
    return click.option(
        "--provider", cls=AliasedOption, default="cpu", show_default=True, help=text, late=_providers
    )(function)


def precision(function: Function) -> Function:
    """Give a command ``--precision``."""
    values = click.Choice(typing.get_args(kind(TuneOptions, "precision")))
    text = FACTS["precision"].help
    return click.option("--precision", type=values, default="auto", show_default=True, help=text)(function)


def sequence_length(function: Function) -> Function:
    """Give a command ``--sequence-length``."""
    text = "tokens of a row where no data is given  [default: the bundle's longest]"
    return click.option("--sequence-length", type=click.IntRange(min=1), help=text)(function)


def which(function: Function) -> Function:
    """Give a command ``--which``."""
    text = "which weights of a run  [default: best, or last where it never evaluated]"
    return click.option("--which", type=click.Choice(["best", "last"]), help=text)(function)


def forward(function: Function) -> Function:
    """Give a command the flags that decide which rows are run, and how."""
    for option in (
        click.option("--threads", default=0, show_default=True, help=FACTS["threads"].help),
        precision,
        provider,
        *(_key(name) for name in reversed((*KEYS, "truncation_side"))),
        click.option(
            "--split",
            type=click.Choice(["train", "valid", "test"]),
            default="test",
            show_default=True,
            help="which rows",
        ),
        which,
    ):
        function = option(function)
    return function


def _key(name: str) -> Callable[[Function], Function]:
    text = f"{FACTS[name].help}  [default: as a run was tuned]"
    return click.option(flag(name), type=_click_type(kind(TuneOptions, name)), help=text)
