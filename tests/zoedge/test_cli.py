import errno
import json
import os
import signal
import subprocess
import sys

import click
import numpy as np
import onnxruntime
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import load_file

from tests.hand_bundle import LORA, hand_bundle
from zoedge.bundle import Bundle
from zoedge.cli.flags import _ALIASES
from zoedge.cli.main import failure, main
from zoedge.errors import RefusedError, ZoedgeError
from zoedge.methods import RECIPES
from zoedge.options import TuneOptions
from zoedge.runtime.measure import Measure
from zoedge.runtime.run_folder import Run

COMMANDS = ["adapter", "eval", "export", "inspect", "merge", "methods", "predict", "replay", "tune"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, data and a finished run; tests only read them."""
    folder = tmp_path_factory.mktemp("made")
    hand_bundle(folder / "bundle", trainable=(*LORA, "fc.bias"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4), np.float32)
    np.savez(folder / "data.npz", x=x, labels=(x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0))
    run(
        "tune",
        folder / "bundle",
        "--data",
        folder / "data.npz",
        "-o",
        folder / "run",
        "--steps",
        6,
        "--batch-size",
        8,
    )
    return folder


def run(*arguments, code=0):
    """Call the command line in this process; return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def error(*arguments, code=2):
    """The error of a command line that fails, without click's two lines of usage."""
    result = run(*arguments, code=code)
    assert "Traceback" not in result.output
    text = result.stderr
    return text.partition("\n\n")[2] if text.startswith("Usage: ") else text


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


def test_every_tune_option_is_a_flag_and_reaches_the_tuner(monkeypatch, tmp_path):
    """One value per field, none its default, given as a flag."""
    seen = {}
    monkeypatch.setattr(
        "zoedge.runtime.tune.tune", lambda bundle, data, output, options, **_: seen.update(o=options)
    )
    values = {
        "method": "mezo", "steps": 3, "epochs": 1.5, "max_time": "9s", "lr": 0.5, "lr_schedule": "cosine", "eps": 0.25,
        "batch_size": 2, "micro_batch_size": 1, "queries": 5, "weight_decay": 0.125, "rank": 3, "refresh": 7,
        "seed": 42,
        "objective": "f1", "head_init": "zeros", "head_refit_every": 4, "val_size": 0.5, "eval_every": 0,
        "early_stopping_patience": 2, "log_every": 1, "placement": "in-place", "provider": "cuda", "threads": 1,
        "text_key": "t", "label_key": "l",
    }  # fmt: skip
    assert set(values) == set(TuneOptions.__struct_fields__)
    given = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", value)]
    run("tune", "bundle", "--data", "data", "-o", tmp_path / "run", *given)
    assert {name: getattr(seen["o"], name) for name in values} == values
    default = TuneOptions()
    assert not [name for name, value in values.items() if getattr(default, name) == value]


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
    assert getattr(seen["o"], field) == value


def test_the_help_shows_one_name_per_option():
    text = run("tune", "--help").output
    assert "--lr " in text
    assert "--batch-size INTEGER" in text
    assert "[default: 64]" in text
    for name in (name for names in _ALIASES.values() for name in names):
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
        assert (
            f"{recipe.summary}\n    {recipe.source}\n    adapters: lr {recipe.defaults.lr_adapter:g}" in text
        )
    assert f"{TuneOptions().method} (default): " in text


def test_tune_reports_and_writes_a_run(made, tmp_path):
    arguments = ["tune", made / "bundle", "--data", made / "data.npz", "-o", tmp_path / "run", "--steps", 2]
    text = run(*arguments, "--log-every", 1, "--batch-size", 8).output
    assert text.splitlines()[0] == f"bundle     {made / 'bundle'} (classification)"
    assert "\nstep 2/2  loss " in text
    assert text.splitlines()[-1] == f"{tmp_path / 'run'} holds the tuned weights"
    assert set(Run.open(tmp_path / "run").weights()) == {*LORA, "fc.bias"}


def test_dry_run_writes_nothing(made, tmp_path):
    text = run(
        "tune",
        made / "bundle",
        "--data",
        made / "data.npz",
        "-o",
        tmp_path / "run",
        "--batch-size",
        8,
        "--dry-run",
    )
    assert text.output.splitlines()[1].startswith(f"data       {made / 'data.npz'} (54 rows")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_is_saved_and_resumed(made, tmp_path, monkeypatch):
    """Ctrl-C in the third step: exit code 130, and the resumed run ends as one that was never interrupted."""
    forward, calls = Measure.loss, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 20:  # 9 forwards a step
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, batch)

    monkeypatch.setattr(Measure, "loss", interrupted)
    folder = tmp_path / "run"
    result = run(
        "tune",
        made / "bundle",
        "--data",
        made / "data.npz",
        "-o",
        folder,
        "--steps",
        6,
        "--batch-size",
        8,
        code=130,
    )
    assert result.stderr == f"Interrupted; go on with: zoedge tune --resume -o {folder}\n"
    assert "steps        3 taken" in run("inspect", folder).output
    monkeypatch.undo()
    run("tune", "--resume", "-o", folder)
    assert "steps        6 taken" in run("inspect", folder).output
    for path in ("journal.zoj", "last/tensors.safetensors"):
        assert (folder / path).read_bytes() == (made / "run" / path).read_bytes()


def test_eval_prints_a_table_or_one_object(made):
    text = run("eval", made / "run", "--data", made / "data.npz").output
    result = json.loads(run("eval", made / "run", "--data", made / "data.npz", "--json").output)
    assert list(result)[:3] == ["examples", "loss", "accuracy"]
    assert text.splitlines()[:2] == ["examples  60", f"loss      {result['loss']:.4f}"]
    before = json.loads(run("eval", made / "bundle", "--data", made / "data.npz", "--json").output)
    assert before["loss"] != result["loss"]


def test_which_weights_are_evaluated(made):
    losses = [
        json.loads(run("eval", made / "run", "-d", made / "data.npz", "--json", *which).output)["loss"]
        for which in ([], ["--which", "best"], ["--which", "last"])
    ]
    best, last = (load_file(made / "run" / name / "tensors.safetensors") for name in ("best", "last"))
    assert losses[0] == losses[1]
    same = all(np.array_equal(best[name], last[name]) for name in best)
    assert (losses[1] == losses[2]) == same


def test_predict_prints_a_line_per_row(made):
    lines = run("predict", made / "run", "--data", made / "data.npz").output.splitlines()
    assert len(lines) == 60
    assert {json.loads(line)["label"] for line in lines} <= {"a", "b", "c"}


def test_merge_gives_a_folder_that_predicts_alike(made, tmp_path):
    text = run("merge", made / "run", "-o", tmp_path / "merged").output
    assert text == f"{tmp_path / 'merged'} holds model.onnx, model.safetensors\n"
    session = onnxruntime.InferenceSession(
        tmp_path / "merged" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    logits = session.run(["logits"], {"x": np.load(made / "data.npz")["x"]})[0]
    lines = run("predict", made / "run", "--data", made / "data.npz").output.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["abc"[i] for i in logits.argmax(1)]


def test_adapter_says_what_it_holds(made, tmp_path):
    result = run("adapter", made / "run", "-o", tmp_path / "a.onnx_adapter")
    assert result.output == f"{tmp_path / 'a.onnx_adapter'} holds 5 tensors\n"
    rewritten = Bundle.open(made / "bundle")
    assert sorted(p.name for p in rewritten.manifest.trainable) == sorted((*LORA, "fc.bias"))


def test_adapter_says_what_is_left_out(tmp_path, made):
    bundle = hand_bundle(tmp_path / "bundle", trainable=(*LORA, "fc.weight"))
    run(
        "tune",
        bundle.folder,
        "-d",
        made / "data.npz",
        "-o",
        tmp_path / "run",
        "--steps",
        1,
        "--batch-size",
        8,
    )
    result = run("adapter", tmp_path / "run", "-o", tmp_path / "peft")
    assert result.stdout == f"{tmp_path / 'peft'} holds 4 tensors\n"
    assert (
        result.stderr == "Left out, as the format has no place for them: fc.weight; zoedge merge keeps them\n"
    )


def test_replay_gives_the_same_bits(made, tmp_path):
    text = run("replay", made / "run", "-o", tmp_path / "again").output
    path = tmp_path / "again" / "tensors.safetensors"
    assert text == f"{path} holds the weights after 6 steps\n"
    assert path.read_bytes() == (made / "run" / "last" / "tensors.safetensors").read_bytes()


def test_inspect_a_bundle(made):
    lines = run("inspect", made / "bundle").output.splitlines()
    assert lines[0] == f"bundle     {made / 'bundle'} (format 1, zoedge 0.1.0)"
    assert "source     torch Net" in lines
    assert "labels     a, b, c" in lines
    assert "trainable  64 of 187 parameters (34.22 %) in 5 tensors" in lines
    assert "groups     lora 56, bias 8" in lines
    assert "LoRA       2 branches, rank 2 alpha 8" in lines
    size = (made / "bundle" / "weights.safetensors").stat().st_size
    assert f"  {size:>14,} bytes  weights.safetensors" in lines


def test_inspect_a_run(made):
    lines = run("inspect", made / "run").output.splitlines()
    assert lines[0] == f"run     {made / 'run'}"
    assert "  batch_size: 8" in lines
    assert "steps        6 taken, 0 skipped for a loss that was not finite" in lines
    rows = [json.loads(line) for line in (made / "run" / "log.jsonl").read_text().splitlines()]
    best = min((row for row in rows if "eval_loss" in row), key=lambda row: row["eval_loss"])
    assert lines[-1].startswith(f"best         after step {best['step']}: loss {best['eval_loss']:.4f}")


def test_inspect_a_journal_and_its_records(made):
    lines = run("inspect", made / "run" / "journal.zoj").output.splitlines()
    assert any(line.startswith("records      6 step, 0 assign, ") for line in lines)
    printed = run("inspect", made / "run" / "journal.zoj", "--records").output
    assert printed == run("inspect", made / "run", "--records").output
    records = [json.loads(line) for line in printed.splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["step"] for record in steps] == list(range(6))
    assert all(len(record["losses"]) == 9 for record in steps)


def test_inspect_says_that_a_tail_is_torn(made, tmp_path):
    path = tmp_path / "journal.zoj"
    path.write_bytes((made / "run" / "journal.zoj").read_bytes() + b"half")
    assert run("inspect", path).output.splitlines()[-1] == "torn         4 bytes behind the last good record"


BAD = {
    "no such folder": (
        ["eval", "{tmp}/no", "-d", "x"],
        "{tmp}/no does not exist: give a bundle (zoedge export) or a run (zoedge tune)",
    ),
    "not a run": (
        ["merge", "{tmp}", "-o", "{tmp}/m"],
        "{tmp} is not a run folder: it has no config.yaml (zoedge tune BUNDLE -o RUN makes one)",
    ),
    "inspect nothing": (
        ["inspect", "{tmp}/no"],
        "{tmp}/no does not exist: give a bundle, a run or a journal",
    ),
    "inspect other": (
        ["inspect", "{tmp}"],
        "{tmp} has neither bundle.json nor config.yaml: give a bundle, a run or a journal",
    ),
    "no bundle": (
        ["tune", "-d", "x", "-o", "{tmp}/r"],
        "no BUNDLE is given: zoedge tune BUNDLE --data DATA -o RUN (zoedge export makes bundles)",
    ),
    "no data": (
        ["tune", "b", "-o", "{tmp}/r"],
        "no --data is given: name the rows to tune b on, like --data rows.csv",
    ),
    "run exists": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{made}/run"],
        "{made}/run holds a run already: continue it with --resume or choose another -o",
    ),
    "resumed otherwise": (
        ["tune", "--resume", "-o", "{made}/run", "--eps", "0.5"],
        "--eps 0.5 differs from the 0.01 that {made}/run was started with: "
        "leave it out to resume, or choose another -o",
    ),
    "range": (["tune", "b", "-d", "x", "-o", "{tmp}/r", "--lr", "0"], "--lr is 0.0 and must be above 0"),
    "large batch": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{tmp}/r"],
        "--batch-size 64 is larger than the 54 training rows: use at most 54",
    ),
    "method": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{tmp}/r", "--method", "mezzo"],
        "--method 'mezzo' is not a method; did you mean mezo, meazo? (methods: fzoo, meazo, mezo, subzero)",
    ),
    "missing data": (
        ["eval", "{made}/bundle", "-d", "{tmp}/no.csv"],
        "{tmp}/no.csv does not exist: check the path",
    ),
    "texts and data": (
        ["predict", "{made}/run", "text", "-d", "x"],
        "give either texts or --data: zoedge predict RUN TEXT... or zoedge predict RUN --data DATA",
    ),
    "neither": (
        ["predict", "{made}/run"],
        "give either texts or --data: zoedge predict RUN TEXT... or zoedge predict RUN --data DATA",
    ),
    "unknown command": (["tunes"], "No such command 'tunes'. Did you mean 'tune'?"),
    "unknown flag": (["tune", "b", "--lrr", "1"], "No such option '--lrr'. Did you mean '--lr'?"),
    "no output": (["merge", "r"], "Missing option '-o' / '--output'."),
    "too many steps": (
        ["replay", "{made}/run", "-o", "{tmp}/w", "--steps", "7"],
        "--steps 7 is more than the 6 that {made}/run took: give at most 6",
    ),
    "output exists": (
        ["merge", "{made}/run", "-o", "{made}/bundle"],
        "{made}/bundle exists already: choose another output folder or remove it first",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(made, tmp_path, name):
    arguments, message = BAD[name]
    places = {"made": made, "tmp": tmp_path}
    assert error(*(a.format(**places) for a in arguments)) == f"Error: {message.format(**places)}\n"
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_corrupt_weights_file(made, tmp_path):
    folder = hand_bundle(tmp_path / "bundle").folder
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    message = error("eval", folder, "-d", made / "data.npz")
    path = folder / "weights.safetensors"
    assert (
        message
        == f"Error: {path} is not the file that was exported (its SHA-256 differs): copy or export it again\n"
    )


def test_a_newer_bundle(made, tmp_path):
    path = tmp_path / "bundle.json"
    path.write_text('{"format": 99}')
    message = f"Error: {path} has format 99, and this zoedge reads up to 1: upgrade zoedge\n"
    assert error("eval", tmp_path, "-d", made / "data.npz") == message


def test_a_bundle_that_is_gone(made, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = yaml.safe_load((made / "run" / "config.yaml").read_text()) | {"bundle": str(tmp_path / "gone")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert error("replay", folder, "-o", tmp_path / "again") == (
        f"Error: {folder} was tuned from {tmp_path / 'gone'}, which is gone: "
        f"put the bundle back or correct 'bundle' in {folder / 'config.yaml'}\n"
    )


def _fail_with(monkeypatch, raised):
    def fail(*arguments, **settings):
        raise raised

    monkeypatch.setattr("zoedge.runtime.replay.replay", fail)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ZoedgeError("no finite loss"), 1, "no finite loss"),
        (RefusedError("too little memory"), 3, "too little memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/run"), 1,
         "/data/run: No space left on device: free some space or write elsewhere"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1,
         "/root/x: Permission denied: check its permissions or choose another path"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/data"), 1, "/data: Is a directory"),
        (MemoryError(), 1, "not enough memory: lower --micro-batch-size, or tune fewer tensors"),
        (RuntimeError("a\nbug"), 1, "unexpected RuntimeError: a bug (zoedge --debug shows where)"),
    ],
)  # fmt: skip
def test_failures_are_one_sentence(monkeypatch, tmp_path, raised, code, message):
    _fail_with(monkeypatch, raised)
    assert error("replay", "run", "-o", tmp_path / "x", code=code) == f"Error: {message}\n"


@pytest.mark.parametrize(
    "arguments", [["--debug", "replay", "run", "-o", "x"], ["replay", "run", "-o", "x", "--debug"]]
)
def test_debug_shows_the_traceback(monkeypatch, arguments):
    _fail_with(monkeypatch, RuntimeError("a bug"))
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, RuntimeError)
    assert result.exit_code == 1


def test_an_interrupt_anywhere_is_130(monkeypatch, tmp_path):
    _fail_with(monkeypatch, KeyboardInterrupt())
    assert run("replay", "run", "-o", tmp_path / "x", code=130).output == ""


def test_a_reader_that_goes_away_is_no_error_of_ours(made):
    done = subprocess.run(
        f"{sys.executable} -m zoedge inspect {made / 'run'} --records | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert json.loads(done.stdout)["step"] == 0


def test_failure_names_an_error_without_a_file():
    assert failure(OSError(errno.EIO, "Input/output error")) == ("Input/output error", 1)


def test_no_option_shadows_another():
    for name, command in main.commands.items():
        names = [
            n for p in command.params if isinstance(p, click.Option) for n in (*p.opts, *p.secondary_opts)
        ]
        assert len(names) == len(set(names)), name
