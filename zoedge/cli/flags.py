"""Flags: those that several commands share, and those of tuning, which derive from ``TuneOptions``."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from ..options import TuneOptions, help_text

Function = TypeVar("Function", bound=Callable[..., Any])

# what other trainers call the same setting; accepted, not shown (and underscores count as dashes)
_ALIASES: dict[str, tuple[str, ...]] = {
    "steps": ("--iters", "--max-steps"),
    "epochs": ("--num-train-epochs",),
    "lr": ("--learning-rate",),
    "lr_schedule": ("--lr-scheduler-type",),
    "eps": ("--zo-eps",),
    "batch_size": ("--per-device-train-batch-size",),
    "eval_every": ("--steps-per-eval", "--eval-steps"),
    "early_stopping_patience": ("--early-stopping-steps",),
    "log_every": ("--steps-per-report", "--logging-steps"),
}
KEYS = tuple(name for name in TuneOptions.__struct_fields__ if name.endswith("_key"))
_SHORT = {"queries": "-q"}
_TYPES: dict[object, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}


class AliasedOption(click.Option):
    """An option some of whose names the help leaves out."""

    def __init__(self, names: Sequence[str], *, aliases: Sequence[str] = (), **settings: Any) -> None:
        super().__init__([*names, *aliases], **settings)
        self._aliases = frozenset(aliases)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of the help."""
        with self._shown():
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the option's name for an error."""
        with self._shown():
            return super().get_error_hint(ctx)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        names = self.opts
        self.opts = [name for name in names if name not in self._aliases]
        try:
            yield
        finally:
            self.opts = names


def tune_options(function: Function) -> Function:
    """Give a command one flag per field of ``TuneOptions``; one that isn't given comes as None."""
    for name in reversed(TuneOptions.__struct_fields__):
        function = _flag(name)(function)
    return function


def _flag(name: str) -> Callable[[Function], Function]:
    default = getattr(TuneOptions(), name)
    shown = "" if default is None else f"  [default: {default}]"
    short = (_SHORT[name],) if name in _SHORT else ()
    return click.option(
        name,
        *short,
        f"--{name.replace('_', '-')}",
        cls=AliasedOption,
        aliases=_ALIASES.get(name, ()),
        type=_click_type(name),
        help=help_text(name) + shown,
    )


def _click_type(name: str) -> click.ParamType[Any]:
    kind = typing.get_type_hints(TuneOptions)[name]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    return _TYPES[kind]


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
    text = "a .jsonl, .json, .csv, .tsv, .parquet or .npz file, a folder of {train,valid,test} files, or a hub id"
    return click.option("data", "-d", "--data", required=required, help=text)


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
        click.option("--threads", default=0, show_default=True, help=help_text("threads")),
        click.option("--provider", default="cpu", show_default=True, help=help_text("provider")),
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
    text = f"{help_text(name)}  [default: as a run was tuned]"
    return click.option(f"--{name.replace('_', '-')}", type=_click_type(name), help=text)
