"""``--active-elements`` through the command line: resumed, replayed, refused, and what a step costs."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.builders.networks import mlp, rows
from tests.zoedge.commands import error, run
from zoedge import options
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime.noise.reference import PURPOSE_SAMPLE, STRETCH, Sample, Stream, stretches, tensor_id
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run

PLACEMENTS = ["in-place", "out-of-place"]
EIGHT_STEPS = (
    *("--method", "mezo", "--steps", 8, "--batch-size", 16, "--queries", 2, "--weight-decay", 0.01),
    *("--lr", 0.001, "--eps", 0.01, "--eval-every", 2, "--lr-schedule", "constant", "--active-elements", 0.4),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network of ten stretches, in four tensors."""
    folder = tmp_path_factory.mktemp("elements")
    mlp(folder / "mlp.onnx", hidden=700)
    rows(folder / "data.jsonl", 100)
    for train in ("full", "lora"):
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=2)
    return folder


def tune(place, folder, *more, bundle="full"):
    return run("tune", place / bundle, "-d", place / "data.jsonl", "-o", folder, *EIGHT_STEPS, *more)


def tensors(folder):
    return (folder / "last" / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize("snapshot", [True, False])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_resume_and_replay_give_the_bits_of_the_uninterrupted_run(place, tmp_path, placement, snapshot):
    tune(place, tmp_path / "whole", "--placement", placement)
    tune(place, tmp_path / "parts", "--placement", placement, "--steps", 3)
    if not snapshot:
        (tmp_path / "parts" / "last" / "snapshot.safetensors").unlink()
    run("tune", "--resume", "-o", tmp_path / "parts", "--steps", 8)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    run("replay", tmp_path / "whole", "-o", tmp_path / "again")
    assert (tmp_path / "again" / "tensors.safetensors").read_bytes() == tensors(tmp_path / "whole")


def test_the_share_is_the_journals(place, tmp_path):
    tune(place, tmp_path / "run")
    assert journal.read_journal(tmp_path / "run" / "journal.zoj").header.options["active_elements"] == 0.4
    for other in (0.5, 1.0):
        assert error("tune", "--resume", "-o", tmp_path / "run", "--active-elements", other) == (
            f"Error: --active-elements {other} differs from the 0.4 that {tmp_path / 'run'} was started with: "
            f"leave it out to resume, or choose another -o\n"
        )
    run("tune", "--resume", "-o", tmp_path / "run", "--active-elements", 0.4)


def test_a_journal_without_the_share_moves_all(place):
    earlier = options.flat(TuneOptions())
    assert "active_elements" not in earlier
    assert options.own(options.make(earlier)).active_elements == 1.0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_stretches_move_as_they_are_drawn(place, tmp_path, placement):
    tune(place, tmp_path / "run", "--steps", 1, "--eval-every", 0, "--placement", placement)
    start, end = load_file(place / "full" / "weights.safetensors"), Run.open(tmp_path / "run").weights("last")
    assert any((value != start[name]).any() for name, value in end.items())
    for name, value in end.items():
        moved = (value != start[name]).reshape(-1)
        drawn = Sample(Stream(0, tensor_id(name), 0, 0, PURPOSE_SAMPLE), 0.4)
        expected = np.repeat(stretches(drawn, 0, -(-moved.size // STRETCH)), STRETCH)[: moved.size]
        assert not moved[~expected].any()
        assert moved.sum() >= 0.9 * expected.sum()


@pytest.mark.parametrize("value", ["0", "1.5", "nan", "-0.25", "inf"])
def test_a_share_out_of_range_is_refused(place, tmp_path, value):
    arguments = ["tune", place / "full", "-d", place / "data.jsonl", "-o", tmp_path / "run"]
    assert error(*arguments, f"--active-elements={value}") == (
        f"Error: --active-elements is {float(value)} and must be above 0 and at most 1 for fzoo\n"
    )
    with pytest.raises(InputError, match=r"--active-elements is .* and must be above 0 and at most 1"):
        options.make({"active_elements": float(value)})


def test_what_has_no_effect_is_said(place, tmp_path):
    text = tune(place, tmp_path / "run", bundle="lora").output
    assert (
        "--active-elements has no effect here: a small matrix moves in each LoRA branch, and nothing else"
        in text
    )


def test_bench_counts_the_elements_that_move(place):
    arguments = ["bench", place / "full", "--method", "mezo", "--placement", "in-place"]
    text = run(*arguments, "--active-elements", 0.25).output
    assert text.splitlines()[-1].startswith("a move writes 1,751 elements, ")
    assert json.loads(run(*arguments, "--json").output)["written_elements"] == 7_003
