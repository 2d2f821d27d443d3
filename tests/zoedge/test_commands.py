import json
import os
import signal
import sys
from dataclasses import fields

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from tests.builders.hand_bundle import LORA, hand_bundle
from tests.zoedge.commands import SIX_STEPS, error, run
from zoedge.cli.flags import KEYS
from zoedge.runtime.data import KeyNames, KeyOptions
from zoedge.runtime.measuring.measure import Measure
from zoedge.runtime.records import Header, Step
from zoedge.runtime.run.journal import Journal
from zoedge.runtime.run.run_folder import Run


def test_tune_reports_and_writes_a_run(made, tmp_path):
    arguments = ["tune", made / "bundle", "--data", made / "data.npz", "-o", tmp_path / "run", "--steps", 2]
    text = run(*arguments, "--log-every", 1, "--batch-size", 8).output
    assert text.splitlines()[0] == f"bundle     {made / 'bundle'} (classification)"
    assert "\nstep 2/2  loss " in text
    assert text.splitlines()[-1] == f"{tmp_path / 'run'} holds the tuned weights"
    assert set(Run.open(tmp_path / "run").weights()) == {*LORA, "fc.bias"}


def test_dry_run_writes_nothing(made, tmp_path):
    arguments = ["tune", made / "bundle", "--data", made / "data.npz", "-o", tmp_path / "run"]
    text = run(*arguments, "--batch-size", 8, "--dry-run")
    assert text.output.splitlines()[1].startswith(f"data       {made / 'data.npz'} (54 rows")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_is_saved_and_resumed(made, tmp_path, monkeypatch):
    """Ctrl-C in the third step: exit code 130, and the resumed run ends as one that was never interrupted."""
    losses, calls = Measure.losses, []

    def interrupted(self, batch, points):
        for loss in losses(self, batch, points):
            calls.append(1)
            if len(calls) == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield loss

    monkeypatch.setattr(Measure, "losses", interrupted)
    folder = tmp_path / "run"
    result = run("tune", made / "bundle", "--data", made / "data.npz", "-o", folder, *SIX_STEPS, code=130)
    assert result.stderr == f"Interrupted; go on with: zoedge tune --resume -o {folder}\n"
    assert "steps        3 taken" in run("inspect", folder).output
    monkeypatch.undo()
    run("tune", "--resume", "-o", folder)
    assert "steps        6 taken" in run("inspect", folder).output
    for path in ("journal.zoj", "last/tensors.safetensors"):
        assert (folder / path).read_bytes() == (made / "run" / path).read_bytes()


def test_eval_prints_a_table_or_one_object(made):
    text = run("eval", made / "run", "--data", made / "data.npz").output
    result = json.loads(run("eval", made / "run", "--data", made / "data.npz", "--json").stdout)
    assert list(result)[:3] == ["examples", "loss", "accuracy"]
    assert text.splitlines()[:2] == ["examples     60", f"loss         {result['loss']:.4f}"]
    before = json.loads(run("eval", made / "bundle", "--data", made / "data.npz", "--json").stdout)
    assert before["loss"] != result["loss"]


def test_a_loss_that_is_not_a_number_is_null_in_json(made, monkeypatch):
    monkeypatch.setattr(
        "zoedge.runtime.evaluate.evaluate", lambda *a, **k: {"examples": 2, "loss": float("nan")}
    )
    assert run("eval", made / "run", "-d", "x", "--json").output == '{"examples": 2, "loss": null}\n'
    assert run("eval", made / "run", "-d", "x").output == "examples  2\nloss      nan\n"


def test_which_weights_are_evaluated(made):
    losses = [
        json.loads(run("eval", made / "run", "-d", made / "data.npz", "--json", *which).stdout)["loss"]
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
    assert text == f"{tmp_path / 'merged'} holds config.json, model.onnx, model.safetensors\n"
    session = onnxruntime.InferenceSession(
        tmp_path / "merged" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    logits = session.run(["logits"], {"x": np.load(made / "data.npz")["x"]})[0]
    lines = run("predict", made / "run", "--data", made / "data.npz").output.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["abc"[i] for i in logits.argmax(1)]


def test_adapter_says_what_it_holds(made, tmp_path):
    result = run("adapter", made / "run", "-o", tmp_path / "a.onnx_adapter")
    assert result.output == f"{tmp_path / 'a.onnx_adapter'} holds 5 tensors\n"


def test_adapter_says_what_is_left_out(tmp_path, made):
    bundle = hand_bundle(tmp_path / "bundle", trainable=(*LORA, "fc.weight"))
    arguments = ["tune", bundle.folder, "-d", made / "data.npz", "-o", tmp_path / "run"]
    run(*arguments, "--steps", 1, "--batch-size", 8)
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
    assert "deployed   x float32 [batch, 4] -> logits float32 [batch, 3]" in lines
    assert "groups     lora 56, bias 8" in lines
    assert "LoRA       2 branches, rank 2 alpha 8" in lines
    size = (made / "bundle" / "weights.safetensors").stat().st_size
    assert f"  {size:>14,} bytes  weights.safetensors" in lines


def test_inspect_a_run(made):
    lines = run("inspect", made / "run").output.splitlines()
    assert lines[0] == f"run     {made / 'run'}"
    assert "  batch_size: 8" in lines
    assert "steps        6 taken, 0 skipped for a loss or an update that was not finite" in lines
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


def test_inspect_counts_every_kind_of_skipped_step(tmp_path):
    options = {"method": "mezo", "queries": 1, "eps": 1e-3}
    header = Header(bundle="b", data="d", seed=0, noise=1, options=options, zoedge="0", versions={})
    journal = Journal.create(tmp_path / "journal.zoj", header)
    for step, lr, losses in ((0, 1e-3, (1.0, 2.0)), (1, 1e-3, (1.0, float("nan"))), (2, 3e38, (1.0, 2.0))):
        journal.append(Step(step, lr, losses))
    journal.close()
    lines = run("inspect", tmp_path / "journal.zoj").output.splitlines()
    assert "steps        3 taken, 2 skipped for a loss or an update that was not finite" in lines


def test_inspect_says_that_a_tail_is_torn(made, tmp_path):
    path = tmp_path / "journal.zoj"
    path.write_bytes((made / "run" / "journal.zoj").read_bytes() + b"half")
    assert run("inspect", path).output.splitlines()[-1] == "torn         4 bytes behind the last good record"


def _renamed(made, path, x, labels):
    data = np.load(made / "data.npz")
    np.savez(path, **{x: data["x"], labels: data["labels"]})
    return path


def test_eval_and_predict_take_the_names_of_fields(made, tmp_path):
    odd = _renamed(made, tmp_path / "odd.npz", "x", "kind")
    evaluated = ["eval", made / "bundle", "--json", "-d"]
    expected = run(*evaluated, made / "data.npz").output
    assert run(*evaluated, odd, "--label-key", "kind").output == expected
    assert "--label-key" in error(*evaluated, odd)
    predicted = run("predict", made / "bundle", "-d", odd, "--label-key", "kind").output
    assert predicted == run("predict", made / "bundle", "-d", made / "data.npz").output


def test_a_run_knows_the_names_of_fields_it_was_tuned_with(made, tmp_path):
    odd = _renamed(made, tmp_path / "odd.npz", "x", "kind")
    run("tune", made / "bundle", "-d", odd, "--label-key", "kind", "-o", tmp_path / "run", *SIX_STEPS)
    own = run("eval", tmp_path / "run", "-d", odd, "--json").output
    other = _renamed(made, tmp_path / "other.npz", "x", "sort")
    assert run("eval", tmp_path / "run", "-d", other, "--json", "--label-key", "sort").output == own
    message = error("eval", tmp_path / "run", "-d", other)
    assert "has no field 'kind', which --label-key names; its fields are x, sort" in message
    assert (
        run("predict", tmp_path / "run", "-d", odd).output
        == run("predict", tmp_path / "run", "-d", other).output
    )


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_every_key_is_a_flag(command, made, monkeypatch):
    seen = {}
    name = "evaluate" if command == "eval" else "predict"
    returned = {"loss": 0.0} if command == "eval" else []
    monkeypatch.setattr(f"zoedge.runtime.evaluate.{name}", lambda *_, **keys: seen.update(keys) or returned)
    flags = [text for key in KEYS for text in (f"--{key.replace('_', '-')}", key.upper())]
    run(command, "run", "-d", "data", *flags)
    assert {key: seen[key] for key in KEYS} == {key: key.upper() for key in KEYS}
    assert len(KEYS) == 5


def test_the_names_of_fields_are_everywhere_the_same():
    assert set(KeyOptions.__annotations__) == {f"{field.name}_key" for field in fields(KeyNames)} == set(KEYS)


@pytest.mark.parametrize("which", [None, "best", "last"])
@pytest.mark.parametrize("command", ["eval", "predict", "merge", "adapter"])
def test_which_weights_is_one_choice_everywhere(made, tmp_path, command, which, monkeypatch):
    seen = []
    weights = Run.weights
    monkeypatch.setattr(Run, "weights", lambda run, which=None: seen.append(which) or weights(run, which))
    rest = ["-d", made / "data.npz"] if command in ("eval", "predict") else ["-o", tmp_path / "out"]
    run(command, made / "run", *rest, *(["--which", which] if which else []))
    assert seen == [which]


def test_a_run_s_configuration_makes_the_same_run(made, tmp_path):
    run("tune", made / "bundle", "--data", made / "data.npz", "-o", tmp_path / "a", *SIX_STEPS, "--seed", 4)
    said = run("tune", "-c", tmp_path / "a" / "config.yaml", "-o", tmp_path / "b").output
    assert "no effect" not in said
    for name in ("journal.zoj", "last/tensors.safetensors", "best/tensors.safetensors", "config.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run("tune", "-c", tmp_path / "a" / "config.yaml", "-o", tmp_path / "c", "--seed", 5)
    assert (tmp_path / "a" / "journal.zoj").read_bytes() != (tmp_path / "c" / "journal.zoj").read_bytes()


def test_a_run_finds_its_objective_from_any_folder(made, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    text = "def f(outputs, targets):\n    return float(outputs['loss'].mean())\nf.direction = 'min'\n"
    (here / "own_objective.py").write_text(text)

    def call(folder, *arguments, code=0):
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "path", [place for place in sys.path if place not in (str(here), str(there))])
            patch.delitem(sys.modules, "own_objective", raising=False)
            called = run("tune", *arguments, code=code)
            sys.modules.pop("own_objective", None)
        return called

    asked = (*SIX_STEPS, "--lr-schedule", "constant", "--objective", "own_objective:f")
    call(here, made / "bundle", "-d", made / "data.npz", "-o", tmp_path / "a", *asked)
    config = ("-c", tmp_path / "a" / "config.yaml")
    call(there, *config, "-o", tmp_path / "b")
    assert (tmp_path / "b" / "journal.zoj").read_bytes() == (tmp_path / "a" / "journal.zoj").read_bytes()
    call(there, "--resume", "-o", tmp_path / "a", "--steps", 8)
    call(there, *config, "-o", tmp_path / "c", "--dry-run")
    (here / "own_objective.py").unlink()
    said = call(there, *config, "-o", tmp_path / "c", code=2).stderr
    assert f"name a module in {here} or {there}, or an installed one" in said
    assert not (tmp_path / "c").exists()
