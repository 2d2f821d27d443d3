import importlib.util
import itertools
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

SCRIPT = Path(__file__).parents[2] / "examples" / "llama_from_llama2c.py"
DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 24, 2, 4, 2, 32
WORDS = ["the", "cat", "sat", "on", "mat", "once", "upon", "time", "dog", "ran"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("llama_from_llama2c", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def pieces():
    """(bytes, score): special tokens, bytes, then pieces whose scores fall with their rank."""
    grown = [f" {word}"[:n] for n in range(2, 6) for word in WORDS if n <= len(word) + 1]
    inner = [word[i : i + 2] for word in WORDS for i in range(len(word) - 1)]
    letters = [" ", *sorted(set("".join(WORDS)))]
    merged = list(dict.fromkeys([*inner, *grown]))
    table = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    table += [(f"<0x{i:02X}>".encode(), 0.0) for i in range(256)]
    table += [(piece.encode(), -float(rank)) for rank, piece in enumerate(merged)]
    return table + [(letter.encode(), -1000.0 - i) for i, letter in enumerate(letters)]


def write_vocabulary(path):
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(len(piece) for piece, _ in pieces())))
        for piece, score in pieces():
            file.write(struct.pack("<fi", score, len(piece)) + piece)


def write_checkpoint(path, script, *, tied=True):
    vocab = len(pieces())
    sizes = script.Sizes(DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocab, CONTEXT, tied)
    rng = np.random.default_rng(0)
    arrays = {
        name: 0.5 * rng.standard_normal(shape, dtype=np.float32) for name, shape in sizes.shapes().items()
    }
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocab if tied else -vocab, CONTEXT)
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return arrays


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def converted(request, script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama2c")
    write_vocabulary(folder / "tok.bin")
    arrays = write_checkpoint(folder / "model.bin", script, tied=request.param)
    script.convert(folder / "model.bin", folder / "tok.bin", folder / "hf")
    return folder / "hf", arrays


def test_logits_are_those_of_the_original_format(converted):
    folder, arrays = converted
    model, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = np.random.default_rng(1).integers(0, len(pieces()), 11)
    with torch.no_grad():
        got = model.eval()(input_ids=torch.from_numpy(tokens[None])).logits[0].numpy()
    np.testing.assert_allclose(got, forward(arrays, tokens), rtol=1e-4, atol=1e-4)


def forward(w, tokens):
    """Logits [tokens, vocab] in float64, one position after the other as llama2.c computes them."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    width, group = DIM // HEADS, HEADS // KV_HEADS
    keys, values, logits = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)], []
    for position, token in enumerate(tokens):
        x = w["embedding"][token]
        for i in range(LAYERS):
            h = norm(x, w["attention_norm"][i])
            q = rotate((w["wq"][i] @ h).reshape(HEADS, width), position)
            keys[i].append(rotate((w["wk"][i] @ h).reshape(KV_HEADS, width), position))
            values[i].append((w["wv"][i] @ h).reshape(KV_HEADS, width))
            heads = []
            for head in range(HEADS):
                scores = np.array([k[head // group] @ q[head] for k in keys[i]]) / width**0.5
                attention = np.exp(scores - scores.max())
                attention /= attention.sum()
                heads.append(sum(a * v[head // group] for a, v in zip(attention, values[i], strict=True)))
            x = x + w["wo"][i] @ np.concatenate(heads)
            h = norm(x, w["ffn_norm"][i])
            gate = w["w1"][i] @ h
            x = x + w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
        logits.append(w.get("output", w["embedding"]) @ norm(x, w["norm"]))
    return np.stack(logits)


def norm(x, weight):
    return x / np.sqrt((x * x).mean() + 1e-5) * weight


def rotate(heads, position):
    """Rotate the pairs (2i, 2i + 1) of each head by position / 10000^(2i / width)."""
    width = heads.shape[1]
    angles = position / 10000.0 ** (np.arange(0, width, 2) / width)
    even, odd = heads[:, 0::2], heads[:, 1::2]
    turned = np.empty_like(heads)
    turned[:, 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[:, 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return turned


TEXTS = ["once upon time the cat sat", "thecatsat", "  on  mat", "the dögs ran\nüber", "", "x"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_original(converted, text):
    inner = AutoTokenizer.from_pretrained(converted[0])
    ids = inner(text).input_ids
    assert ids == [1, *encode(text)]
    assert inner.decode(ids, skip_special_tokens=True) == text


def encode(text):
    """The greedy merges of llama2.c: look characters up, else bytes; then merge by the best score."""
    table = {piece: (i, score) for i, (piece, score) in enumerate(pieces())}
    ids = [table[b" "][0]] if text else []
    for character in text:
        raw = character.encode()
        ids += [table[raw][0]] if raw in table else [byte + 3 for byte in raw]
    while True:
        unions = [pieces()[a][0] + pieces()[b][0] for a, b in itertools.pairwise(ids)]
        found = [(-table[union][1], i) for i, union in enumerate(unions) if union in table]
        if not found:
            return ids
        at = min(found)[1]
        ids[at : at + 2] = [table[unions[at]][0]]


def test_a_truncated_checkpoint(script, tmp_path):
    write_checkpoint(tmp_path / "model.bin", script)
    raw = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(raw[:-40])
    with pytest.raises(SystemExit, match="its header asks for others"):
        script.read_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.bin").write_bytes(raw[:20])
    with pytest.raises(SystemExit, match="too short"):
        script.read_checkpoint(tmp_path / "model.bin")


def test_a_vocabulary_of_another_model(script, tmp_path):
    write_vocabulary(tmp_path / "tok.bin")
    with pytest.raises(SystemExit, match="they don't belong together"):
        script.read_pieces(tmp_path / "tok.bin", 99)
