"""The README's way with a user's own CSV: export, tune, eval, predict, merge, adapter."""

import json
import re
import warnings

import numpy as np
import pytest

from tests.zoedge.commands import error, run
from zoedge.bundle import Bundle

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch, transformers and peft say about themselves


@pytest.fixture(scope="module")
def walk(tiny_encoder, tmp_path_factory):
    """A bundle of a plain encoder, 48 labelled sentences, and a run on them."""
    folder = tmp_path_factory.mktemp("walk")
    good, bad = ("great", "loved", "fine"), ("terrible", "bad", "dull")
    subjects = ("movie", "film", "plot", "story", "acting", "cat", "dog", "one")
    rows = [
        f"the {s} was {w},{kind}"
        for s in subjects
        for kind, words in (("yes", good), ("no", bad))
        for w in words
    ]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = run(
            "export",
            tiny_encoder,
            "-o",
            folder / "bundle",
            "--labels",
            "no, yes",
            "--lora-rank",
            2,
            "--train",
            "lora, head",
        )
    (folder / "export.txt").write_text(exported.stdout)
    settings = ("--steps", 4, "--batch-size", 8, "--lr", 0.005)
    tuned = run("tune", folder / "bundle", "-d", folder / "rows.csv", "-o", folder / "run", *settings)
    (folder / "tune.txt").write_text(tuned.stdout)
    return folder


def test_export_says_what_it_made(walk):
    lines = (walk / "export.txt").read_text().splitlines()
    assert lines == run("inspect", walk / "bundle").output.splitlines()
    assert "task       text-classification, loss cross-entropy" in lines
    assert "labels     no, yes" in lines
    assert any(line.endswith("branches, rank 2 alpha 16") for line in lines)


def test_the_labels_are_learned(walk):
    result = json.loads(run("eval", walk / "run", "-d", walk / "rows.csv", "--json").stdout)
    assert result["examples"] == 48
    assert result["accuracy"] > 0.9
    before = json.loads(run("eval", walk / "bundle", "-d", walk / "rows.csv", "--json").stdout)
    assert result["loss"] < before["loss"]


def test_the_run_says_that_its_head_was_solved(walk):
    lines = run("inspect", walk / "run").output.splitlines()
    assert any(
        line.startswith("assigned ") and "times: classifier.bias, classifier.weight" in line for line in lines
    )
    records = map(json.loads, run("inspect", walk / "run", "--records").output.splitlines())
    assigned = [record for record in records if record["kind"] == "assign"]
    assert assigned[-1]["elements"]["255"] == {"classifier.bias": 2, "classifier.weight": 64}


def test_the_end_says_how_sure_the_best_is(walk):
    (best,) = (line for line in (walk / "tune.txt").read_text().splitlines() if line.startswith("best after"))
    assert re.search(
        r"; on 48 training rows, each judged by a head that had not seen it, which agree with an accuracy from "
        r"0\.\d\d to [01]\.\d\d \(95 %\)$",
        best,
    )
    shown = next(
        line for line in run("inspect", walk / "run").output.splitlines() if line.startswith("best ")
    )
    assert shown.partition("after")[2] == best.partition("after")[2]


def test_a_new_head_that_was_never_solved_is_said_to_guess(walk):
    told = (
        f"the new head of {walk / 'bundle'} is all zeros, as nothing has solved or trained it yet: its answers are "
        "chance until zoedge tune has run"
    )
    for command in (
        ("eval", walk / "bundle", "-d", walk / "rows.csv"),
        ("predict", walk / "bundle", "a text"),
    ):
        assert told in run(*command).stderr.splitlines()
    for command in (("eval", walk / "run", "-d", walk / "rows.csv"), ("predict", walk / "run", "a text")):
        assert "chance" not in run(*command).stderr
    assert "f1 is that of the second class, yes" in run("eval", walk / "run", "-d", walk / "rows.csv").stderr


def test_a_text_is_predicted(walk):
    lines = run("predict", walk / "run", "the film was loved", "the film was dull").output.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["yes", "no"]


def test_malformed_rows_are_named(walk, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine", "label": "yes"}\n{"text": \n')
    message = error("tune", walk / "bundle", "-d", tmp_path / "rows.jsonl", "-o", tmp_path / "run")
    assert message.startswith(f"Error: {tmp_path / 'rows.jsonl'}:2 is not JSON")
    (tmp_path / "rows.csv").write_text("text,label\nfine,perhaps\n")
    message = error("eval", walk / "bundle", "-d", tmp_path / "rows.csv")
    assert "rows.csv:2" in message
    assert "'perhaps'" in message
    assert not (tmp_path / "run").exists()


def test_export_does_not_overwrite(walk, tiny_encoder):
    digest = Bundle.open(walk / "bundle").digest
    message = error("export", tiny_encoder, "-o", walk / "bundle", "--labels", "no,yes")
    assert message.startswith(f"Error: {walk / 'bundle'} exists already")
    assert Bundle.open(walk / "bundle").digest == digest


def test_a_head_that_transformers_lacks_leaves_by_merging(walk, tiny_encoder, tmp_path):
    """PEFT's file can't carry it and says so; the tuned encoder itself is the same by both ways."""
    run("merge", walk / "run", "-o", tmp_path / "merged")
    result = run("adapter", walk / "run", "-o", tmp_path / "peft")
    assert result.stderr == (
        "Left out, as the format has no place for them: classifier.bias, classifier.weight; zoedge merge keeps them\n"
    )
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == list(Bundle.open(walk / "bundle").manifest.labels)
    assert {config["label2id"][label] for label in config["id2label"].values()} == {0, 1}
    merged = transformers.AutoModel.from_pretrained(tmp_path / "merged")
    base = transformers.AutoModel.from_pretrained(tiny_encoder)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "peft")
    ids = {"input_ids": torch.arange(5, 12)[None]}
    with torch.no_grad():
        a, b = (model(**ids).last_hidden_state.numpy() for model in (adapted, merged))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
