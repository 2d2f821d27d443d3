import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.utils import logging as progress

from zoedge.errors import InputError
from zoedge.export.sources.hf_load import load_pretrained, tied_names
from zoedge.export.sources.hf_origin import Origin, locate, read_config


def copy_of(folder, tmp_path, **config):
    copy = shutil.copytree(folder, tmp_path / "m")
    old = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(old | config))
    return copy


def load_from(folder, route="head"):
    origin = locate(folder)
    return load_pretrained(origin, route, read_config(origin))


def test_float32_eager_eval_without_cache(tiny_opt, tmp_path):
    folder = copy_of(tiny_opt, tmp_path)
    halves = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    progress.enable_progress_bar()
    model = load_from(folder, "causal")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert model.config.use_cache is False
    assert progress.is_progress_bar_enabled()


def test_tied_names_are_those_that_save_pretrained_drops(tiny_opt, tiny_roberta_mlm):
    for folder, route in ((tiny_opt, "causal"), (tiny_roberta_mlm, "masked")):
        model = load_from(folder, route)
        stored = set(load_file(folder / "model.safetensors"))
        assert tied_names(model) == set(model.state_dict()) - stored


def test_weights_of_another_kind_of_model(tiny_encoder, tmp_path):
    folder = copy_of(tiny_encoder, tmp_path, architectures=["BertForMaskedLM"])
    with pytest.raises(
        InputError, match=r"has no tensor cls\.predictions\.\S+ and \d more, which BertForMaskedLM needs"
    ):
        load_from(folder, "masked")


def test_weights_of_another_shape(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path, intermediate_size=32)
    with pytest.raises(InputError, match=r"has another shape for bert\.encoder\S+ and \d more"):
        load_from(folder)


def test_no_weights(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"the weights of {folder} can't be loaded: ") as caught:
        load_from(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_file(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path)
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match="can't be loaded"):
        load_from(folder)


@pytest.mark.parametrize("address", ["no/such/folder", "../nowhere", "a b", "/no/such"])
def test_neither_a_folder_nor_a_hub_id(address):
    with pytest.raises(InputError, match=f"{address} is no folder with a Hugging Face model: check the path"):
        locate(address)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} has no config.json"):
        locate(tmp_path)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def refuse(*args, **options):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(InputError, match="nobody/nothing is neither a folder here nor reachable on the hub"):
        read_config(locate("nobody/nothing"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "no-such-kind"}', "transformers has no model type 'no-such-kind' of its own"),
        ("{", "config.json of .* is no valid JSON"),
        ("[]", "config.json of .* should hold a JSON object, not a list"),
    ],
)
def test_damaged_and_unknown_configurations(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_config(locate(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folders_path_stays_out_of_the_record(tmp_path):
    assert Origin(str(tmp_path / "my-model"), None, local=True).name == "my-model"
    assert Origin("org/model", None, local=False).name == "org/model"
