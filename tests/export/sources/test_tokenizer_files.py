import json
import shutil

import pytest
import tokenizers
from transformers import AutoTokenizer, BertTokenizer

from zoedge.errors import InputError
from zoedge.export.sources.hf_origin import locate
from zoedge.export.sources.tokenizer_files import load_tokenizer, tokenizer_files

TEXT = "the movie was great, naïve!"


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_roberta", "tiny_opt", "tiny_llama", "tiny_gpt2"])
def test_files_are_the_sources_own(name, request):
    folder = request.getfixturevalue(name)
    origin = locate(folder)
    files = tokenizer_files(origin, load_tokenizer(origin))
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= set(files)
    assert all(raw == (folder / file).read_bytes() for file, raw in files.items())


def test_a_folder_with_slow_files_only(tiny_bert, tmp_path):
    for file in ("config.json", "vocab.txt"):
        shutil.copy(tiny_bert / file, tmp_path)
    origin = locate(tmp_path)
    files = tokenizer_files(origin, load_tokenizer(origin))
    inner = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert inner.encode(TEXT).ids == BertTokenizer(str(tiny_bert / "vocab.txt"))(TEXT).input_ids


def test_tokens_that_transformers_adds_get_into_the_file(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    origin = locate(folder)
    files = tokenizer_files(origin, load_tokenizer(origin))
    ids = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()).encode(TEXT).ids
    assert ids == AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    assert ids[-1] == 2


def test_padding_and_truncation_in_the_file_are_no_difference(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "m")
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.enable_padding(length=50)
    inner.enable_truncation(4)
    inner.save(str(folder / "tokenizer.json"))
    origin = locate(folder)
    files = tokenizer_files(origin, load_tokenizer(origin))
    assert files["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()


def test_no_tokenizer(tiny_bert, tmp_path):
    shutil.copy(tiny_bert / "config.json", tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} has no tokenizer that can be used") as caught:
        load_tokenizer(locate(tmp_path))
    assert "\n" not in str(caught.value)
