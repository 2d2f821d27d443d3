import subprocess
import sys
import typing
from typing import Literal

import click
import pytest

from tests.zoedge.commands import run
from zoedge.cli.main import main
from zoedge.methods import RECIPES
from zoedge.options import FACTS, TuneOptions, flat, known_settings
from zoedge.runtime.data.read import READERS
from zoedge.runtime.device import DEVICES
from zoedge.settings import flag, kind

COMMANDS = [
    *("adapter", "bench", "doctor", "estimate", "eval", "export", "inspect", "merge"),
    *("methods", "predict", "replay", "tune"),
]


def test_help_lists_the_commands_that_exist():
    result = run("--help")
    assert sorted(main.commands) == COMMANDS
    for name in COMMANDS:
        assert f"\n  {name} " in result.output
    assert run("-h").output == result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_its_help_with_an_example(name):
    assert run(name, "--help").output.splitlines()[-1].startswith(f"  Example: zoedge {name}")


def test_version():
    from importlib.metadata import version

    assert run("--version").output == f"zoedge {version('zoedge')}\n"


def test_the_module_runs_too():
    done = subprocess.run(
        [sys.executable, "-m", "zoedge", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run("--version").output


def other_than_default(settings, name):
    """A value that a setting takes and doesn't have by default."""
    type_ = kind(settings, name)
    choices = typing.get_args(type_) if typing.get_origin(type_) is Literal else ()
    candidates = choices or {int: [3, 5], float: [0.25, 0.5]}.get(type_, ["x", "y"])
    return next(value for value in candidates if value != getattr(settings(), name))


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_every_setting_is_a_flag_and_reaches_the_tuner(monkeypatch, tmp_path, method):
    seen = {}
    monkeypatch.setattr(
        "zoedge.runtime.tune.tune", lambda bundle, data, output, options, **_: seen.update(o=options)
    )
    own = RECIPES[method].options
    values = {name: other_than_default(TuneOptions, name) for name in FACTS} | {"method": method}
    values |= {name: other_than_default(own, name) for name in own.__struct_fields__}
    given = [text for name, value in values.items() for text in (flag(name), value)]
    run("tune", "bundle", "--data", "data", "-o", tmp_path / "run", *given)
    assert flat(seen["o"]) == values


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (["--learning-rate", "0.5"], "lr", 0.5),
        (["--learning_rate", "0.5"], "lr", 0.5),
        (["--iters", "5"], "steps", 5),
        (["--max-steps", "5"], "steps", 5),
        (["--per_device_train_batch_size", "5"], "batch_size", 5),
        (["--num_train_epochs", "2"], "epochs", 2.0),
        (["--lr_scheduler_type", "cosine"], "lr_schedule", "cosine"),
        (["--logging_steps", "5"], "log_every", 5),
        (["-q", "5"], "queries", 5),
        (["--seed", "0"], "seed", 0),
    ],
)
def test_other_trainers_names_work(monkeypatch, tmp_path, given, field, value):
    seen = {}
    monkeypatch.setattr(
        "zoedge.runtime.tune.tune", lambda bundle, data, output, options, **_: seen.update(o=options)
    )
    run("tune", "bundle", "--data", "data", "--output_dir", tmp_path / "run", *given)
    assert flat(seen["o"])[field] == value


def test_the_help_shows_one_name_per_option():
    text = run("tune", "--help").output
    assert "--lr " in text
    assert "--batch-size INTEGER" in text
    assert f"[default: {TuneOptions().batch_size}]" in text
    for name in (name for setting in known_settings().values() for name in setting.aliases):
        assert f"{name} " not in text


def test_a_flag_beats_the_file_which_beats_the_default(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(
        "zoedge.runtime.tune.tune", lambda bundle, data, output, options, **_: seen.update(o=options)
    )
    (tmp_path / "c.yaml").write_text("lr: 1e-5\nbatch-size: 4\n")
    run("tune", "b", "-d", "d", "-o", tmp_path / "run", "-c", tmp_path / "c.yaml", "--batch-size", "3")
    assert (seen["o"].lr, seen["o"].batch_size, seen["o"].seed) == (1e-5, 3, 0)


def test_methods():
    text = run("methods").output
    for recipe in RECIPES.values():
        assert f"{recipe.summary}\n    {recipe.source}\n    LoRA, " in text
        d = recipe.defaults
        for length in (d.activations or d.factors, d.factors, d.small, d.dense):
            assert f": lr {length.lr:g}, eps {length.eps:g}\n" in text
        for name in recipe.options.__struct_fields__:
            assert flag(name) in text
    assert f"{TuneOptions().method} (default): " in text


def test_no_option_shadows_another():
    for name, command in main.commands.items():
        params = command.get_params(click.Context(command))
        names = [n for p in params if isinstance(p, click.Option) for n in (*p.opts, *p.secondary_opts)]
        assert len(names) == len(set(names)), name


@pytest.mark.parametrize("command", ["tune", "eval", "predict", "bench", "estimate", "doctor", "replay"])
def test_the_help_lists_the_providers_there_are(command, monkeypatch):
    monkeypatch.setitem(DEVICES, "toy", None)
    told = f"--provider TEXT onnxruntime execution provider ({', '.join(DEVICES)}) [default: cpu]"
    assert told in " ".join(run(command, "--help").output.split())


@pytest.mark.parametrize("command", ["tune", "eval", "predict", "bench", "estimate", "doctor"])
def test_precision_is_a_flag_wherever_passes_are_made(command):
    assert "--precision [auto|float32|tf32|float16]" in run(command, "--help").output


def test_without_onnxruntime_the_help_names_no_provider(monkeypatch):
    monkeypatch.delitem(sys.modules, "zoedge.runtime.device", raising=False)
    monkeypatch.delitem(sys.modules, "zoedge.runtime.device.ort", raising=False)
    monkeypatch.delitem(sys.modules, "zoedge.runtime.device.base", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "execution provider [default: cpu]" in " ".join(run("eval", "--help").output.split())


def test_the_help_lists_the_formats_there_are(monkeypatch):
    monkeypatch.setitem(READERS, ".toy", None)
    *most, last = READERS
    assert f"a {', '.join(most)} or {last} file, a folder" in " ".join(run("eval", "--help").output.split())
