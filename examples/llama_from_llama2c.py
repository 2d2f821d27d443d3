"""Turn a checkpoint of llama2.c into a Hugging Face folder: config, weights, tokenizer.

    python examples/llama_from_llama2c.py stories260K.bin tok512.bin stories260K

The checkpoint is seven int32 (dim, hidden, layers, heads, kv_heads, vocab, context), then float32 arrays in
the order of ``shapes``; a negative vocab says that the output matrix isn't the embedding and follows at the
end. The tokenizer file is one int32, then per token a float32 score, an int32 length and that many bytes.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors

NORM_EPS = 1e-5  # a constant of llama2.c
ROPE_THETA = 10000.0
SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Sizes:
    """The header of a checkpoint."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    tied: bool

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the arrays of the file in their order; matrices are (out, in)."""
        d, n, kv = self.dim, self.layers, self.kv_heads * self.head
        tables = (self.context, self.head // 2)
        arrays = {
            "embedding": (self.vocab, d),
            "attention_norm": (n, d),
            "wq": (n, d, d),
            "wk": (n, kv, d),
            "wv": (n, kv, d),
            "wo": (n, d, d),
            "ffn_norm": (n, d),
            "w1": (n, self.hidden, d),
            "w2": (n, d, self.hidden),
            "w3": (n, self.hidden, d),
            "norm": (d,),
            "cos": tables,
            "sin": tables,
        }
        return arrays if self.tied else arrays | {"output": (self.vocab, d)}


def read_checkpoint(path: Path) -> tuple[Sizes, dict[str, np.ndarray]]:
    """Return the sizes and the arrays of a checkpoint."""
    raw = path.read_bytes()
    if len(raw) < 28:
        raise SystemExit(f"{path} is too short to be a llama2.c checkpoint")
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("<7i", raw[:28])
    sizes = Sizes(dim, hidden, layers, heads, kv_heads, abs(vocab), context, vocab > 0)
    values = np.frombuffer(raw[28 : len(raw) // 4 * 4], "<f4")
    arrays, start = {}, 0
    shapes = sizes.shapes()
    if sum(int(np.prod(shape)) for shape in shapes.values()) != len(values):
        raise SystemExit(f"{path} has {len(values)} numbers, and its header asks for others: {sizes}")
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[name] = values[start : start + size].reshape(shape)
        start += size
    return sizes, arrays


def weights(sizes: Sizes, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors under the names of transformers' ``LlamaForCausalLM``."""
    tensors = {"model.embed_tokens.weight": arrays["embedding"], "model.norm.weight": arrays["norm"]}
    for i in range(sizes.layers):
        layer = {
            "input_layernorm": arrays["attention_norm"][i],
            "self_attn.q_proj": halves(arrays["wq"][i], sizes.heads),
            "self_attn.k_proj": halves(arrays["wk"][i], sizes.kv_heads),
            "self_attn.v_proj": arrays["wv"][i],
            "self_attn.o_proj": arrays["wo"][i],
            "post_attention_layernorm": arrays["ffn_norm"][i],
            "mlp.gate_proj": arrays["w1"][i],
            "mlp.down_proj": arrays["w2"][i],
            "mlp.up_proj": arrays["w3"][i],
        }
        tensors |= {f"model.layers.{i}.{name}.weight": array for name, array in layer.items()}
    if not sizes.tied:
        tensors["lm_head.weight"] = arrays["output"]
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head: llama2.c rotates rows 2i and 2i + 1, transformers i and i + width / 2."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def config(sizes: Sizes) -> dict[str, object]:
    """Return ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.dim,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        "max_position_embeddings": sizes.context,
        "tie_word_embeddings": sizes.tied,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def read_pieces(path: Path, vocab: int) -> list[tuple[str, float]]:
    """Return (piece, score) of each token, with sentencepiece's mark in place of spaces."""
    raw, at, pieces = path.read_bytes(), 4, []
    while at < len(raw):
        score, length = struct.unpack_from("<fi", raw, at)
        piece = raw[at + 8 : at + 8 + length].decode()
        pieces.append((SPECIAL[len(pieces)] if len(pieces) < 3 else piece.replace(" ", "▁"), score))
        at += 8 + length
    if len(pieces) != vocab:
        raise SystemExit(
            f"{path} has {len(pieces)} tokens, and the checkpoint has {vocab}: they don't belong together"
        )
    return pieces


def tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Return the same tokenizer for the ``tokenizers`` package.

    llama2.c merges the neighbours whose union has the highest score, so every way to cut a piece into two
    others is a merge, ranked by the piece's score.
    """
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[3 + 256 :]:
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(-score, ids[piece], cut) for cut in cuts if cut[0] in ids and cut[1] in ids]
    merges.sort()
    inner = Tokenizer(
        models.BPE(ids, [cut for *_, cut in merges], byte_fallback=True, unk_token=SPECIAL[0], fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(list(SPECIAL))
    inner.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return inner


def convert(checkpoint: Path, vocabulary: Path, folder: Path) -> None:
    """Write the Hugging Face folder."""
    sizes, arrays = read_checkpoint(checkpoint)
    inner = tokenizer(read_pieces(vocabulary, sizes.vocab))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(sizes, arrays), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(sizes), indent=2))
    inner.save(str(folder / "tokenizer.json"))
    names = {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": sizes.context, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="llama2.c checkpoint -> Hugging Face Llama folder")
    parser.add_argument("checkpoint", type=Path, help="weights, such as stories260K.bin")
    parser.add_argument("vocabulary", type=Path, help="tokenizer, such as tok512.bin")
    parser.add_argument("folder", type=Path, help="output folder")
    options = parser.parse_args()
    for path in (options.checkpoint, options.vocabulary):
        if not path.is_file():
            sys.exit(f"{path} is no file")
    convert(options.checkpoint, options.vocabulary, options.folder)


if __name__ == "__main__":
    main()
