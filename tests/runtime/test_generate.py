"""Greedy generation against transformers."""

import warnings

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoedge.export import to_bundle
from zoedge.runtime.evaluate import predict

PROMPTS = ["the quick brown", "a dog"]


def test_it_continues_as_transformers_does(tiny_llama, tmp_path):
    to_bundle(tiny_llama, tmp_path / "bundle", task="text-generation")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sampling settings that greedy search doesn't read
            out = model.generate(ids["input_ids"], max_new_tokens=6, do_sample=False, pad_token_id=0)
        new = [t for t in out[0, ids["input_ids"].shape[1] :].tolist() if t != tokenizer.eos_token_id]
        expected.append(tokenizer.decode(new, skip_special_tokens=True))
    found = [row["text"] for row in predict(tmp_path / "bundle", texts=PROMPTS, max_new_tokens=6)]
    assert found == expected
    assert all(found)
