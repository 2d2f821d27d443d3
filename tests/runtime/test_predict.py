"""Texts and image files by themselves, asked as the rows that a run was tuned on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tests.builders.tiny as tiny
from tests.zoedge.commands import error
from tests.zoedge.commands import run as command
from zoedge import InputError, Run, TuneOptions, predict, tune
from zoedge.export import to_bundle
from zoedge.runtime.data.record import Record
from zoedge.runtime.tasks.prompts import prompt_shape

ROWS = {
    "instruction": {"instruction": "good film", "input": "", "output": " yes"},
    "prompt": {"prompt": "good film", "completion": " yes"},
    "text": {"text": "good film yes"},
}
QUICK = TuneOptions(steps=1, method="mezo", batch_size=2, val_size=0.0, eval_every=0, threads=1)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    to_bundle(tiny.tiny_llama(folder / "llama"), folder / "bundle", task="text-generation", lora_rank=2)
    return folder / "bundle"


@pytest.mark.parametrize("shape", sorted(ROWS))
def test_a_text_is_asked_as_the_run_s_rows_were(generator, tmp_path, shape):
    run = tune(generator, [ROWS[shape]] * 4, tmp_path / "run", QUICK)
    assert Run.open(run.folder).facts.shape == shape
    asked = {k: v for k, v in ROWS[shape].items() if k in ("instruction", "prompt", "text")}
    if shape == "text":
        asked = {"text": "good film"}
    wanted = list(predict(run, data=[asked], max_new_tokens=4))
    assert list(predict(run, "good film", max_new_tokens=4)) == wanted
    assert list(predict(run, ["good film"] * 2, max_new_tokens=4)) == 2 * wanted
    printed = command("predict", run.folder, "good film", "--max-new-tokens", 4, "--threads", 1).stdout
    assert [json.loads(line) for line in printed.splitlines()] == wanted


def test_conversations_are_asked_as_a_user_s_turn():
    turns = [{"role": "user", "content": "a"}]
    for fields in ({"messages": turns}, {"conversations": turns}, {"prompt": turns, "completion": turns}):
        assert prompt_shape(Record(fields, "row")) == "messages"


def test_the_only_field_of_a_template_takes_the_text(tmp_path):
    bundle = to_bundle(
        tiny.tiny_bert_mlm(tmp_path / "bert"),
        tmp_path / "bundle",
        labels=("bad", "good"),
        template="{review} it was {label}",
    )
    wanted = list(predict(bundle, data=[{"review": "a fine plot"}]))
    assert list(predict(bundle, "a fine plot")) == wanted


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    to_bundle(tiny.tiny_vit(folder / "vit"), folder / "bundle", train=("head",))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).convert("RGBA").save(folder / "alpha.png")
    np.save(folder / "a.npy", pixels)
    np.savez(folder / "a.npz", image=pixels[np.newaxis])
    return folder


@pytest.mark.parametrize("name", ["a.png", "alpha.png", "a.npy"])
def test_the_path_of_an_image_is_the_image(pictures, name):
    (wanted,) = predict(pictures / "bundle", data=pictures / "a.npz")
    assert list(predict(pictures / "bundle", pictures / name)) == [wanted]
    assert list(predict(pictures / "bundle", [str(pictures / name)])) == [wanted]
    printed = command("predict", pictures / "bundle", pictures / name).stdout
    assert json.loads(printed) == wanted


def test_what_is_no_image_is_named(pictures, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    for path, said in ((tmp_path / "x.png", "can't be read as an image"), ("a cat", "a cat doesn't exist")):
        assert said in error("predict", pictures / "bundle", path)


def test_a_text_for_a_model_of_arrays_is_refused(tmp_path):
    from tests.builders.networks import mlp

    mlp(tmp_path / "m.onnx")
    bundle = to_bundle(tmp_path / "m.onnx", tmp_path / "bundle", task="classification")
    with pytest.raises(
        InputError, match=r"text 1 is a text, and this bundle takes arrays \(x\): give them with"
    ):
        list(predict(bundle, "hello"))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([{"text": "a"}], r"text 1 is \{'text': 'a'\} and no text: give text, or rows with data="),
        ([None], "text 1 is None and no text"),
        ({"text": ["a"]}, "texts are a dict: give a text, a list of texts, or rows with data="),
        (pd.DataFrame({"text": ["a"]}), "texts are a DataFrame"),
        (5, "texts are a int"),
        (b"a text", "texts are a bytes"),
        ((), "give either texts or data"),
        (Path("film.txt"), "film.txt is a file, and a text was expected"),
    ],
)
def test_what_is_no_text_is_refused(generator, texts, said):
    with pytest.raises(InputError, match=said):
        list(predict(generator, texts))


def test_texts_and_rows_at_once_are_refused(generator):
    with pytest.raises(InputError, match="give either texts or data"):
        list(predict(generator, "a", data=[{"text": "b"}]))


def test_a_column_of_texts_is_a_list_of_texts(generator):
    wanted = list(predict(generator, ["a", "good film"], max_new_tokens=2))
    assert list(predict(generator, np.array(["a", "good film"]), max_new_tokens=2)) == wanted
    assert list(predict(generator, pd.Series(["a", "good film"]), max_new_tokens=2)) == wanted


def test_a_file_of_rows_is_no_text(generator, tmp_path):
    (tmp_path / "rows.csv").write_text("text\na\n")
    said = error("predict", generator, tmp_path / "rows.csv")
    assert "rows.csv is a file, and a text was expected: give files of rows with --data" in said


def test_a_run_tuned_on_pairs_asks_for_pairs(tmp_path):
    bundle = to_bundle(
        tiny.tiny_bert(tmp_path / "bert"), tmp_path / "bundle", labels=("no", "yes"), lora_rank=2
    )
    row = {"sentence1": "a fine plot", "sentence2": "a plot"}
    rows = [row | {"label": "yes"}, row | {"label": "no"}] * 4
    run = tune(bundle, rows, tmp_path / "run", QUICK)
    with pytest.raises(
        InputError, match="text 1 is one text, and the run was tuned on pairs: give rows with --data"
    ):
        list(predict(run, "a fine plot"))
    assert len(list(predict(run, data=[row]))) == 1
