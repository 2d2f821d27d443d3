"""Tiny Hugging Face folders with random weights and real tokenizers, made in a second or two, no network.

Each builder takes an empty or absent folder, fills it as ``save_pretrained`` does, and returns it.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

POSITIONS = 64  # longest sequence of every text model here
_COMMON = (
    "a an the it was is this that movie film plot story acting great terrible good bad fine dull "
    "sharp slow quick loved hated i we you he she and but so very not really one two three cat dog"
)
WORDS = _COMMON.split()  # one token each, in every tokenizer here
_SENTENCES = [f"{a} {b} it was {c} ." for a in WORDS for b in WORDS[:12] for c in WORDS[13:20]]


def tiny_bert(folder: Path, *, labels: tuple[str, ...] = ("no", "maybe", "yes"), **config: object) -> Path:
    """BertForSequenceClassification with ``labels``; one label makes a regression model."""
    config = _bert_config(**_names(labels), **config)
    return save(folder, BertForSequenceClassification, config, wordpiece())


def tiny_bert_mlm(folder: Path) -> Path:
    """BertForMaskedLM."""
    return save(folder, BertForMaskedLM, _bert_config(), wordpiece())


def tiny_encoder(folder: Path, *, pooling: str | None = "mean") -> Path:
    """BertModel alone, with the pooling declaration of sentence-transformers unless ``pooling`` is None."""
    save(folder, BertModel, _bert_config(), wordpiece())
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def tiny_distilbert_mlm(folder: Path, *, layers: int = 2) -> Path:
    """DistilBertForMaskedLM."""
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": layers, "n_heads": 4, "initializer_range": 0.2}
    config = DistilBertConfig(vocab_size=len(_vocabulary()), max_position_embeddings=POSITIONS, **sizes)
    return save(folder, DistilBertForMaskedLM, config, wordpiece())


def tiny_roberta(folder: Path, *, labels: tuple[str, ...] = ("no", "yes")) -> Path:
    """RobertaForSequenceClassification."""
    config, tokenizer = _roberta_config(**_names(labels))
    return save(folder, RobertaForSequenceClassification, config, tokenizer)


def tiny_roberta_mlm(folder: Path, *, layers: int = 2) -> Path:
    """RobertaForMaskedLM."""
    config, tokenizer = _roberta_config(num_hidden_layers=layers)
    return save(folder, RobertaForMaskedLM, config, tokenizer)


def tiny_opt(folder: Path) -> Path:
    """OPTForCausalLM with its "</s>" in front of every text."""
    inner = _byte_level(["<s>", "<pad>", "</s>", "<unk>"], front="</s>")
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    tokenizer = GPT2TokenizerFast(tokenizer_object=inner, add_bos_token=True, **names)
    config = OPTConfig(
        vocab_size=inner.get_vocab_size(),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        init_std=0.2,
    )
    return save(folder, OPTForCausalLM, config, tokenizer)


def tiny_gpt2(folder: Path, *, layers: int = 2) -> Path:
    """GPT2LMHeadModel: matrices stored as [in, out], no padding token, nothing added to a text."""
    inner = _byte_level(["<|endoftext|>"])
    config = GPT2Config(
        vocab_size=inner.get_vocab_size(),
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_positions=POSITIONS,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save(folder, GPT2LMHeadModel, config, GPT2TokenizerFast(tokenizer_object=inner))


def tiny_llama(folder: Path, *, tied: bool = True, layers: int = 2) -> Path:
    """LlamaForCausalLM with grouped key-value heads and a byte-fallback tokenizer."""
    tokenizer = metaspace()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return save(folder, LlamaForCausalLM, config, tokenizer)


def tiny_vit(folder: Path, *, labels: tuple[str, ...] = ("cat", "dog", "hen")) -> Path:
    """ViTForImageClassification for 3 x 16 x 16 pixels."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ViTConfig(image_size=16, patch_size=4, initializer_range=0.2, **sizes, **_names(labels))
    size = {"size": {"height": 16, "width": 16}}
    return _save_image(folder, ViTForImageClassification, config, size)


def tiny_resnet(folder: Path, *, labels: tuple[str, ...] = ("cat", "dog", "hen")) -> Path:
    """ResNetForImageClassification for 3 x 32 x 32 pixels, with running statistics other than 0 and 1."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], **_names(labels))
    size = {"size": {"shortest_edge": 32}, "crop_pct": 0.875}
    return _save_image(folder, ResNetForImageClassification, config, size)


def _bert_config(**config: object) -> BertConfig:
    return BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        **config,
    )


def _roberta_config(**config: object) -> tuple[RobertaConfig, PreTrainedTokenizerFast]:
    inner = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer = RobertaTokenizerFast(
        tokenizer_object=inner, mask_token=AddedToken("<mask>", lstrip=True, special=True)
    )
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return (
        RobertaConfig(
            vocab_size=inner.get_vocab_size(),
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS + 2,
            type_vocab_size=1,
            initializer_range=0.2,
            **{"num_hidden_layers": 2, **config},
        ),
        tokenizer,
    )


def _names(labels: tuple[str, ...]) -> dict[str, dict[object, object]]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _vocabulary() -> dict[str, int]:
    letters = [f"{mark}{chr(97 + i)}" for mark in ("", "##") for i in range(26)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", "?", *letters, *WORDS]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer like BERT's."""
    vocabulary = _vocabulary()
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.decoder = decoders.WordPiece()
    return BertTokenizerFast(tokenizer_object=inner)


def _byte_level(special: list[str], front: str | None = None) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    inner.train_from_iterator(_SENTENCES, trainer)
    if front is not None:
        pair = f"{front} $A $B"
        ids = [(front, inner.token_to_id(front))]
        inner.post_processor = processors.TemplateProcessing(f"{front} $A", pair, special_tokens=ids)
    return inner


def metaspace() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama's: spaces as ▁, unknown characters as bytes."""
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    inner.train_from_iterator([*WORDS, "."], trainer)
    vocabulary = {piece: i for i, piece in enumerate(special)}
    merges = [tuple(merge) for merge in json.loads(inner.to_str())["model"]["merges"]]
    for piece in sorted(inner.get_vocab(), key=inner.get_vocab().__getitem__):
        vocabulary.setdefault(piece, len(vocabulary))
    inner.model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    strip = decoders.Strip(" ", 1, 0)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    inner.decoder = decoders.Sequence(steps)
    ids = [("<s>", 1)]
    inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _save_image(folder: Path, kind: type, config: PretrainedConfig, processing: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    norm = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, **norm}
    (folder / "preprocessor_config.json").write_text(json.dumps({**common, **processing}))
    return save(folder, kind, config, None)


def save(
    folder: Path, kind: type, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast | None
) -> Path:
    """Make the model from a fixed seed and write it with its tokenizer."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers says about its own defaults
        torch.manual_seed(0)
        model = kind(config)
        _roughen(model)
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return folder


def _roughen(model: PreTrainedModel) -> None:
    """Move biases, norms and running statistics off 0 and 1, so that a lost or swapped one shows."""
    for _, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.data.add_(0.2 * torch.rand_like(tensor))
