"""Models with random weights as Hugging Face folders, the bundles and the ordinary export made of them.

Run as a process of its own, so that what exporting leaves in memory is not measured: ``python -m
variants.models WORK NAME``. What exists already is left as it is.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from variants.processes import command, environment
from variants.shapes import BOS, EOS, FIRST_WORD, PAD, WORDS

BUNDLES = {
    "full": ("--train", "full"),
    "lora": ("--train", "lora"),
    "lora-qv": ("--train", "lora", "--target-modules", "q_proj,v_proj"),
    "lora-int8": ("--train", "lora", "--quantize", "int8"),
    "lora-qv-int8": ("--train", "lora", "--target-modules", "q_proj,v_proj", "--quantize", "int8"),
}
TOLERANCE = 1e-3  # of logits, whose size is about 1


def opt_config(**sizes: int) -> Any:
    """Return the configuration of OPT-125M, or of another size."""
    from transformers import OPTConfig

    return OPTConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, **sizes)


def llama_config(**sizes: int) -> Any:
    """Return a Llama of 0.6 B parameters, or of another size."""
    from transformers import LlamaConfig

    given = {
        "vocab_size": 32000, "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 2048,
    } | sizes  # fmt: skip
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return LlamaConfig(tie_word_embeddings=True, **ids, **given)


def _opt_of(hidden: int, layers: int, vocabulary: int = 8192) -> Callable[[], Any]:
    sizes = {
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "ffn_dim": 4 * hidden,
        "vocab_size": vocabulary,
    }
    return lambda: opt_config(num_hidden_layers=layers, num_attention_heads=hidden // 64, **sizes)


MODELS: dict[str, Callable[[], Any]] = {
    "opt-125m": opt_config,
    "opt-1.3b": _opt_of(2048, 24, 50272),
    "llama-0.6b": llama_config,
    "tiny": _opt_of(64, 2),  # for trying the commands
    "opt-5m": _opt_of(256, 4),
    "opt-16m": _opt_of(384, 7),
    "opt-33m": _opt_of(512, 9),
    "opt-92m": _opt_of(768, 12),
    "opt-210m": _opt_of(1024, 16),
}


def can_quantize() -> bool:
    """Return whether `zoedge export` has --quantize."""
    return "--quantize" in subprocess.run(_zoedge("export", "--help"), text=True, capture_output=True).stdout


def prepare(work: Path, name: str, bundles: list[str]) -> None:
    """Make what is missing below ``work``/``name``, in processes of their own."""
    subprocess.run(command("models", str(work), name, *bundles), check=True, env=environment())


def _main(work: Path, name: str, bundles: list[str]) -> None:
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    with _missing(folder / "hf") as target:
        if target:
            save_model(MODELS[name](), target)
    with _missing(folder / "stock") as target:
        if target:
            _export_with_optimum(folder / "hf", target)
    for bundle in bundles:
        with _missing(folder / bundle) as target:
            if target:
                print(f"$ zoedge export ({bundle}, {name})", file=sys.stderr, flush=True)
                source = str(folder / "hf")
                arguments = (source, "-o", str(target), "--task", "text-generation", *BUNDLES[bundle])
                subprocess.run(_zoedge("export", *arguments), check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _missing(folder: Path) -> Iterator[Path | None]:
    """Yield None where the folder is there, else a path that becomes it when nothing fails."""
    if folder.exists():
        yield None
        return
    target = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(target, ignore_errors=True)
    yield target
    target.rename(folder)


def save_model(config: Any, folder: Path, *, half: bool = False) -> None:
    """Write a model with random weights, which are float16 where ``half``, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model = model.half() if half else model
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    print(f"{folder.parent.name}: {model.num_parameters():,} parameters", file=sys.stderr, flush=True)


def _tokenizer() -> Any:
    """Return a tokenizer whose words "w0", "w1", ... are one token each."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<s>": 0, "<pad>": PAD, "</s>": EOS, "<unk>": 3}
    vocabulary = special | {f"w{n}": FIRST_WORD + n for n in range(WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", BOS)]
    )
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _export_with_optimum(source: Path, folder: Path) -> None:
    """Export as optimum does by default, and check the logits on fresh inputs."""
    import numpy as np
    import onnxruntime
    import torch
    from optimum.exporters.onnx import main_export
    from transformers import AutoModelForCausalLM

    from variants.stock import feeds_for

    print(f"$ optimum-cli export onnx ({source.parent.name})", file=sys.stderr, flush=True)
    # its post-processing fails above 2 GB, the most that a protobuf message holds
    large = (source / "model.safetensors").stat().st_size >= 1 << 31
    main_export(str(source), folder, task="text-generation", do_validation=False, no_post_process=large)
    ids = np.random.default_rng(1).integers(FIRST_WORD, WORDS, (3, 21))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(source)(torch.from_numpy(ids)).logits.numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    error = float(np.abs(session.run(["logits"], feeds_for(session, ids))[0] - expected).max())
    if not error < TOLERANCE:
        raise SystemExit(f"the ordinary export's logits differ from torch's by {error:.2g}")


def _zoedge(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "zoedge", *arguments)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
