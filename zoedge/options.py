"""The options of ``zoedge tune``: one typed class from which the flags, the config file and the help derive.

A flag beats the config file, which beats the default. ``None`` means "what suits the method and the bundle";
``make_plan`` of the runtime fills those in, and the resolved options are saved with the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import yaml

from .errors import InputError, near
from .methods import RECIPES, MethodOptions, find_recipe
from .settings import Setting, convert, facts, flag, from_yaml

Direction = Literal["min", "max"]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "float32", "tf32", "float16"]
HeadInit = Literal["probe", "zeros", "random"]
MOST_THREADS = 1024
OPTIONS = "the options"  # the place of settings that stand in no file


class _Told(msgspec.StructMeta):
    """Answers a keyword that is no setting as the command line answers a flag that is none."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        for name in settings:
            if name not in cls.__struct_fields__:
                own = name in known_settings()
                raise InputError(
                    f"{name} is a setting of methods: give it as method_options={{{name!r}: ...}}"
                    if own
                    else unknown(name)
                )
        return super().__call__(*args, **settings)


class TuneOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, metaclass=_Told):
    """Everything that decides what a run does; what is known of each setting stands in its annotation.

    Raises:
        InputError: a setting that doesn't exist.
    """

    method: Annotated[str, Setting("how to step: see `zoedge methods`")] = "fzoo"
    steps: Annotated[
        int | None,
        Setting(
            "optimizer steps",
            above=0,
            free=True,
            aliases=("--iters", "--max-steps"),
            also=("iterations", "num_steps"),
        ),
    ] = None
    epochs: Annotated[
        float | None,
        Setting(
            "passes over the training rows, instead of --steps",
            above=0,
            free=True,
            aliases=("--num-train-epochs",),
            also=("num_epochs", "epoch"),
        ),
    ] = None
    max_time: Annotated[str | None, Setting("stop after this long, like 90s, 30m or 2h", free=True)] = None
    lr: Annotated[
        float | None,
        Setting("learning rate", above=0, aliases=("--learning-rate",), also=("rate", "step_size")),
    ] = None
    lr_schedule: Annotated[
        Schedule | None,
        Setting(
            "constant, linear (to 0) or cosine (to 0)",
            aliases=("--lr-scheduler-type",),
            also=("schedule", "scheduler", "lr_scheduler"),
        ),
    ] = None
    eps: Annotated[
        float | None,
        Setting(
            "length of the perturbation",
            above=0,
            aliases=("--zo-eps",),
            also=("epsilon", "mu", "perturbation"),
        ),
    ] = None
    batch_size: Annotated[
        int,
        Setting(
            "rows per step",
            above=0,
            aliases=("--per-device-train-batch-size",),
            also=("batch", "train_batch_size", "bs", "bsz", "mini_batch_size"),
        ),
    ] = 16
    micro_batch_size: Annotated[
        int | None,
        Setting("most rows per forward pass; a step's losses are averaged over its passes", above=0),
    ] = None
    points_per_pass: Annotated[
        int | None,
        Setting(
            "LoRA: points of a step measured in one forward pass; 1 for each alone; else timed at the start, or with "
            "an int8 base as many as keep a pass within 128 rows or tokens",
            above=0,
            free=True,
            expert=True,
            also=("probes_per_pass",),
        ),
    ] = None
    seed: Annotated[
        int,
        Setting(
            "seed of noise, batches and splits", least=0, below=2**64, also=("random_state", "random_seed")
        ),
    ] = 0
    objective: Annotated[
        str,
        Setting(
            "what to improve: loss, accuracy, f1 or pkg.mod:function, called as function(outputs, targets) with two "
            "dicts of arrays and returning a number"
        ),
    ] = "loss"
    objective_direction: Annotated[
        Direction | None,
        Setting(
            "whether an objective of your own is minimised or maximised; its attribute 'direction' by default"
        ),
    ] = None
    head_init: Annotated[HeadInit, Setting("how a new head starts: probe, zeros or random")] = "probe"
    head_refit_every: Annotated[
        int | None, Setting("steps between closed-form refits of a probed head", above=0)
    ] = None
    val_size: Annotated[
        float | None,
        Setting(
            "share of the rows held out where the data has no validation split (0 with a probed head)",
            least=0,
            below=1,
        ),
    ] = None
    eval_every: Annotated[
        int | None,
        Setting(
            "steps between evaluations; 0 for none", least=0, aliases=("--steps-per-eval", "--eval-steps")
        ),
    ] = None
    early_stopping_patience: Annotated[
        int | None,
        Setting(
            "stop after this many evaluations without a better loss",
            above=0,
            free=True,
            aliases=("--early-stopping-steps",),
            also=("patience",),
        ),
    ] = None
    log_every: Annotated[
        int,
        Setting(
            "steps between reports", above=0, free=True, aliases=("--steps-per-report", "--logging-steps")
        ),
    ] = 10
    lora_space: Annotated[
        Literal["auto", "factors", "activations"],
        Setting(
            "what moves in a LoRA branch: its factors, or a small matrix between principal directions of activations"
        ),
    ] = "auto"
    placement: Annotated[
        Literal["auto", "in-place", "out-of-place"], Setting("where dense directions act", expert=True)
    ] = "auto"
    prepack: Annotated[
        Literal["auto", "yes", "no"],
        Setting(
            "copies of the frozen matrices in the order the processor likes; no: slower on short inputs, less memory",
            free=True,
            expert=True,
        ),
    ] = "auto"
    few_rows: Annotated[
        Literal["auto", "yes", "no"],
        Setting(
            "multiply trained matrices from the left: faster for few rows or tokens a pass; auto: for 2 to 96",
            expert=True,
        ),
    ] = "auto"
    prefix_cache: Annotated[
        str,
        Setting(
            "disk for what the layers before the first trained one make of each row: auto (up to 1 GiB), no, or a "
            "size like 512MB or 2GB; used where that is faster",
            free=True,
            expert=True,
        ),
    ] = "auto"
    scale_targets: Annotated[
        Literal["auto", "no"],
        Setting("regression: take targets far from the usual size on a scale of their own inside the loss"),
    ] = "auto"
    provider: Annotated[str, Setting("onnxruntime execution provider", free=True)] = "cpu"
    precision: Annotated[
        Precision,
        Setting(
            "in which passes compute: float32, and on a GPU tf32 or float16, which are faster", free=True
        ),
    ] = "auto"
    threads: Annotated[
        int,
        Setting(
            "threads of the forward passes and the noise; 0: one per core",
            least=0,
            most=MOST_THREADS,
            free=True,
        ),
    ] = 0
    truncation_side: Annotated[
        Literal["left", "right"] | None,
        Setting(
            "the end that texts lose which are longer than the bundle takes: right by default, left for prompts"
        ),
    ] = None
    text_key: Annotated[str | None, Setting("name of the text field in the data")] = None
    label_key: Annotated[str | None, Setting("name of the label field in the data")] = None
    prompt_key: Annotated[str | None, Setting("name of the prompt field in the data")] = None
    completion_key: Annotated[str | None, Setting("name of the completion field in the data")] = None
    chat_key: Annotated[str | None, Setting("name of the field of messages in the data")] = None
    method_options: dict[str, Any] = {}  # the method's own settings: those given, and in a plan all of them


FACTS: Mapping[str, Setting] = facts(TuneOptions)


def own(options: TuneOptions) -> Any:
    """Return the method's own settings, those not given by its defaults.

    Raises:
        InputError: an unknown method, a value of the wrong type or out of its range.
    """
    return _own(options.method, options.method_options, OPTIONS)


def flat(options: TuneOptions) -> dict[str, Any]:
    """Return name -> value of every setting, the method's own among them: as in a file or a journal's header."""
    values: dict[str, Any] = msgspec.to_builtins(options)
    of_method: dict[str, Any] = values.pop("method_options")
    return values | of_method


class Settled(NamedTuple):
    """Options, and the names of those that the user gave: only they may contradict a run or have no effect.

    ``bundle`` and ``data`` are those of a run whose configuration was read, and ``objective_folder`` is where the
    module of its objective was found.
    """

    options: TuneOptions
    given: frozenset[str]
    bundle: str | None = None
    data: str | None = None
    objective_folder: str = ""


def load_options(config: Path | None, flags: Mapping[str, Any]) -> Settled:
    """Return the options from an optional YAML file and the flags that were given.

    The file holds settings, or is the ``config.yaml`` of a run, whose settings were all decided: they count as
    chosen by zoedge, so none is said to have no effect.

    Raises:
        InputError: an unreadable file, an unknown key, or a value of the wrong type or out of range.
    """
    read = _read_config(config) if config else {}
    of_run = isinstance(read.get("options"), dict)
    values = (_settings(read["options"]) if of_run else _settings(read)) | dict(flags)
    if of_run:
        values = {n: v for n, v in values.items() if n in flags or n not in _follows(flags, read["options"])}
    options = make(values, str(config) if config else OPTIONS)
    given = flags if of_run else values
    names = frozenset(name for name, value in given.items() if value is not None)
    if not of_run:
        return Settled(options, names)
    facts = read.get("facts")
    folder = str(facts.get("objective_folder", "")) if isinstance(facts, dict) else ""
    return Settled(options, names, read.get("bundle"), read.get("data"), folder)


def _follows(flags: Mapping[str, Any], of_run: Mapping[str, Any]) -> frozenset[str]:
    """Return the settings of a run that were decided for others than those that the flags ask for now."""
    changed = {name for name, value in flags.items() if value is not None and value != of_run.get(name)}
    follows = {
        "epochs": {"steps"},
        "objective": {"objective_direction"},
        "method": {"lr", "eps", "lr_schedule", "lora_space", *(known_settings().keys() - FACTS.keys())},
    }
    return frozenset(name for cause in changed & follows.keys() for name in follows[cause])


def unlike_default(options: TuneOptions) -> frozenset[str]:
    """Return the settings that must have been given, as their values aren't the defaults."""
    default = TuneOptions()
    changed = {n for n in FACTS if getattr(options, n) != getattr(default, n)}
    return frozenset(changed | options.method_options.keys())


def make(values: Mapping[str, Any], where: str = OPTIONS) -> TuneOptions:
    """Return validated options.

    Args:
        values: setting -> value, the method's own among the others or under ``method_options``. None stands for
            what is left out; settings of other methods are left out, too.
        where: names the place in errors.

    Raises:
        InputError: an unknown setting or method, a value of the wrong type or out of its range.
    """
    given = {**values, **(values.get("method_options") or {})}
    given.pop("method_options", None)
    known = known_settings()
    for key in given:
        if key not in known:
            raise InputError(unknown(key, where))
    options: TuneOptions = convert({n: v for n, v in given.items() if n in FACTS}, TuneOptions, where)
    has = find_recipe(options.method).options.__struct_fields__
    of_method = {name: value for name, value in given.items() if name in has and value is not None}
    _own(options.method, of_method, where)
    return msgspec.structs.replace(options, method_options=of_method)


# what other trainers have and zoedge hasn't, and what to do instead
_ABSENT = {
    **dict.fromkeys(
        ("warmup", "warmup_steps", "warmup_ratio"),
        "schedules begin at the full rate: lower lr, or leave it out",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "accumulation_steps"),
        "batch_size is the rows of a step, and micro_batch_size the most of a pass",
    ),
    **dict.fromkeys(("optimizer", "optim"), "a method is chosen with method: see `zoedge methods`"),
    **dict.fromkeys(
        ("fp16", "bf16"), "passes on a GPU compute in float16 with precision: float16 (--precision float16)"
    ),
    **dict.fromkeys(
        ("load_in_8bit", "load_in_4bit"),
        "how a bundle stores frozen matrices is decided by zoedge export --quantize",
    ),
    **dict.fromkeys(
        ("max_seq_length", "max_length"), "the longest text is decided by zoedge export --max-seq-length"
    ),
}


def hint(name: str) -> str:
    """Return what to say behind a setting that doesn't exist: what it is called here, or what comes close.

    A name with dashes in front is a flag, and is answered with one.
    """
    plain = name.strip("-").replace("-", "_").lower()
    known = known_settings()
    joined = plain.replace("_", "")
    others = ((n, other) for n, s in known.items() for other in (n, *_plain(s.aliases), *s.also))
    called = next((n for n, other in others if joined == other.replace("_", "")), None)
    if called is not None:
        return f"; here it is {flag(called) if name.startswith('-') else called}"
    return f"; {_ABSENT[plain]}" if plain in _ABSENT else near(plain, known)


def unknown(name: str, where: str = OPTIONS) -> str:
    """Return the sentence about a setting that doesn't exist: the place that names it, and what is meant."""
    return f"{where} {'have' if where == OPTIONS else 'has'} no setting {name!r}{hint(name)}"


def _plain(flags: Iterable[str]) -> Iterator[str]:
    return (flag.strip("-").replace("-", "_") for flag in flags)


def known_settings() -> dict[str, Setting]:
    """Return name -> facts of every setting: those of all runs, and those of any method."""
    return {**FACTS, **{n: s for recipe in RECIPES.values() for n, s in facts(recipe.options).items()}}


def _own(method: str, values: Mapping[str, Any], where: str) -> MethodOptions:
    made: MethodOptions = convert(values, find_recipe(method).options, where, f" for {method}")
    return made


def checked(options: TuneOptions) -> TuneOptions:
    """Return options that were made without a check, once their types and ranges are known to be right.

    Raises:
        InputError: one isn't.
    """
    return make(msgspec.structs.asdict(options))


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
    return values


def _settings(values: Mapping[Any, Any]) -> dict[str, Any]:
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    return {name: _typed(name, value) for name, value in named.items()}


def _typed(name: str, value: Any) -> Any:
    kinds: list[type[msgspec.Struct]] = [TuneOptions, *(recipe.options for recipe in RECIPES.values())]
    for settings in kinds:
        value = from_yaml(settings, name, value)
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


def parse_size(text: str) -> int | None:
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
