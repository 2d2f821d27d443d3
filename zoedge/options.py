"""The options of ``zoedge tune``: one typed class from which the flags, the config file and the help derive.

A flag beats the config file, which beats the default. ``None`` means "what suits the method and the bundle";
``make_plan`` of the runtime fills those in, and the resolved options are saved with the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec
import yaml

from .errors import InputError, near

Schedule = Literal["constant", "linear", "cosine"]
HeadInit = Literal["probe", "zeros", "random"]
Distribution = Literal["gaussian", "rademacher"]


class TuneOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides what a run does; each field's note is its help text."""

    method: Annotated[str, "how to step: see `zoedge methods`"] = "fzoo"
    steps: Annotated[int | None, "optimizer steps"] = None
    epochs: Annotated[float | None, "passes over the training rows, instead of --steps"] = None
    max_time: Annotated[str | None, "stop after this long, like 90s, 30m or 2h"] = None
    lr: Annotated[float | None, "learning rate"] = None
    lr_schedule: Annotated[Schedule | None, "constant, linear (to 0) or cosine (to 0)"] = None
    eps: Annotated[float | None, "length of the perturbation"] = None
    batch_size: Annotated[int, "rows per step"] = 16
    micro_batch_size: Annotated[
        int | None, "most rows per forward pass; a step's losses are averaged over its passes"
    ] = None
    queries: Annotated[int | None, "directions per step"] = None
    directions: Annotated[
        Distribution | None, "gaussian or rademacher (signs: cheaper to draw); the method's own by default"
    ] = None
    probes_per_pass: Annotated[
        int | None,
        "LoRA: points of a step measured in one forward pass; 1 for each alone; else timed at the start, or with an "
        "int8 base as many as keep a pass within 128 rows or tokens",
    ] = None
    weight_decay: Annotated[float, "decoupled weight decay, not on biases and norms"] = 0.0
    rank: Annotated[int, "subzero: rank of the directions"] = 8
    refresh: Annotated[int, "subzero: steps between new subspaces"] = 500
    active_layers: Annotated[float | None, "share of the layers that a step moves (LeZO); all by default"] = (
        None
    )
    active_elements: Annotated[
        float,
        "share of the elements that a step moves, in stretches of 1,024; cheaper where the model is large",
    ] = 1.0
    seed: Annotated[int, "seed of noise, batches and splits"] = 0
    objective: Annotated[str, "what to improve: loss, accuracy, f1 or pkg.mod:function"] = "loss"
    head_init: Annotated[HeadInit, "how a new head starts: probe, zeros or random"] = "probe"
    head_refit_every: Annotated[int | None, "steps between closed-form refits of a probed head"] = None
    val_size: Annotated[
        float | None,
        "share of the rows held out where the data has no validation split (0 with a probed head)",
    ] = None
    eval_every: Annotated[int | None, "steps between evaluations; 0 for none"] = None
    early_stopping_patience: Annotated[
        int | None, "stop after this many evaluations without a better loss"
    ] = None
    log_every: Annotated[int, "steps between reports"] = 10
    lora_space: Annotated[
        Literal["auto", "factors", "activations"],
        "what moves in a LoRA branch: its factors, or a small matrix between principal directions of activations",
    ] = "auto"
    placement: Annotated[Literal["auto", "in-place", "out-of-place"], "where dense directions act"] = "auto"
    prepack: Annotated[
        Literal["auto", "yes", "no"],
        "copies of the frozen matrices in the order the processor likes; no: slower on short inputs, less memory",
    ] = "auto"
    few_rows: Annotated[
        Literal["auto", "yes", "no"],
        "multiply trained matrices from the left: faster for few rows or tokens a pass; auto: for 2 to 96",
    ] = "auto"
    prefix_cache: Annotated[
        str,
        "disk for what the layers before the first trained one make of each row: auto (up to 1 GiB), no, or a size "
        "like 512MB or 2GB; used where that is faster",
    ] = "auto"
    scale_targets: Annotated[
        Literal["auto", "no"],
        "regression: take targets far from the usual size on a scale of their own inside the loss",
    ] = "auto"
    provider: Annotated[str, "onnxruntime execution provider"] = "cpu"
    threads: Annotated[int, "threads of the forward passes and the noise; 0: one per core"] = 0
    truncation_side: Annotated[
        Literal["left", "right"] | None,
        "the end that texts lose which are longer than the bundle takes: right by default, left for prompts",
    ] = None
    text_key: Annotated[str | None, "name of the text field in the data"] = None
    label_key: Annotated[str | None, "name of the label field in the data"] = None
    prompt_key: Annotated[str | None, "name of the prompt field in the data"] = None
    completion_key: Annotated[str | None, "name of the completion field in the data"] = None
    chat_key: Annotated[str | None, "name of the field of messages in the data"] = None


_POSITIVE = ("steps", "epochs", "lr", "eps", "batch_size", "micro_batch_size", "queries", "probes_per_pass",
             "rank", "refresh", "log_every", "head_refit_every", "early_stopping_patience")  # fmt: skip
_NOT_NEGATIVE = ("weight_decay", "seed", "eval_every", "threads")
_SHARES = ("active_layers", "active_elements")


MOST_THREADS = 1024

_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    *((name, math.isfinite, "a finite number") for name in (*_POSITIVE, *_NOT_NEGATIVE)),
    *((name, lambda value: value > 0, "above 0") for name in _POSITIVE),
    *((name, lambda value: value >= 0, "0 or above") for name in _NOT_NEGATIVE),
    *((name, lambda value: 0.0 < value <= 1.0, "above 0 and at most 1") for name in _SHARES),
    ("val_size", lambda value: 0.0 <= value < 1.0, "at least 0 and below 1"),
    ("seed", lambda value: value < 2**64, "below 2^64"),
    ("threads", lambda value: value <= MOST_THREADS, f"at most {MOST_THREADS}"),
)


def help_text(field: str) -> str:
    """Return a field's help text."""
    return str(get_type_hints(TuneOptions, include_extras=True)[field].__metadata__[0])


class Loaded(NamedTuple):
    """Options, and the names of those that the user gave: only they may contradict a run or have no effect."""

    options: TuneOptions
    given: frozenset[str]


def load(config: Path | None, flags: Mapping[str, Any]) -> Loaded:
    """Return the options from an optional YAML file and the flags that were given.

    Raises:
        InputError: an unreadable file, an unknown key, or a value of the wrong type or out of range.
    """
    values = (_read_config(config) if config else {}) | dict(flags)
    options = make(values, str(config) if config else "the options")
    return Loaded(options, frozenset(name for name, value in values.items() if value is not None))


def unlike_default(options: TuneOptions) -> frozenset[str]:
    """Return the fields that must have been given, as their values aren't the defaults."""
    default = TuneOptions()
    return frozenset(n for n in options.__struct_fields__ if getattr(options, n) != getattr(default, n))


def make(values: Mapping[str, Any], where: str = "the options") -> TuneOptions:
    """Return validated options; ``where`` names the place in errors."""
    known = TuneOptions.__struct_fields__
    for key in values:
        if key not in known:
            raise InputError(f"{where} has no setting {key!r}{near(key, known)}")
    try:
        options = msgspec.convert(dict(values), TuneOptions)
    except msgspec.ValidationError as error:
        raise InputError(f"{where} can't be used: {error}") from error
    _check_ranges(options)
    return options


def checked(options: TuneOptions) -> TuneOptions:
    """Return options that were made without a check, once their types and ranges are known to be right.

    Raises:
        InputError: one isn't.
    """
    return make(msgspec.structs.asdict(options))


def _check_ranges(options: TuneOptions) -> None:
    for name, ok, wanted in _RANGES:
        value = getattr(options, name)
        if value is not None and not ok(value):
            raise InputError(f"--{name.replace('_', '-')} is {value} and must be {wanted}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold one setting per line, like 'steps: 200'")
    return {
        name: _typed(name, value)
        for name, value in ((str(k).replace("-", "_"), v) for k, v in values.items())
    }


def _typed(name: str, value: Any) -> Any:
    """Return a file's value as its setting means it: YAML 1.1 reads 1e-5 as text, no as false, 45 as a number."""
    hint = str(get_type_hints(TuneOptions).get(name, ""))
    if isinstance(value, str) and "float" in hint:
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, bool) and ("str" in hint or "'no'" in hint):
        return "yes" if value else "no"
    if isinstance(value, int | float) and not isinstance(value, bool) and "str" in hint:
        return str(value)
    return value


def seconds(text: str) -> float:
    """Return the seconds of a duration like "90s", "30m", "1.5h" or "45" (seconds).

    Raises:
        InputError: it is none.
    """
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise InputError(f"--max-time {text!r} is not a duration: write 90s, 30m or 2h")
    return value


_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_bytes(text: str) -> int | None:
    """Return the bytes of a size like "512MB", "2GiB" or "1000" (bytes), 0 for "no" and None for "auto".

    Raises:
        InputError: it is none.
    """
    if text in ("auto", "no"):
        return None if text == "auto" else 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    size = float(found[1]) * _UNITS[found[2] or ""] if found else 0.0
    if not 1.0 <= size < 2**63:
        raise InputError(f"--prefix-cache {text!r} is not a size: write auto, no, 512MB or 2GB")
    return int(size)
