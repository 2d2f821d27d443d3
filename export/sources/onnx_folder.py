"""Which ``.onnx`` file of a folder is the model, as optimum and the hub lay them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoedge.errors import InputError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.index.json")
_PREFERRED = ("model.onnx", "decoder_model.onnx", "model_quantized.onnx")  # in this order
_CACHED = "decoder_with_past_model.onnx"
_MERGED = "decoder_model_merged.onnx"
_ENCODER = "encoder_model.onnx"


def onnx_in(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the ONNX model of a folder, or None where it has weights of transformers, or no ONNX file.

    Args:
        folder: any folder.
        say: is told which is taken where there is a choice.

    Raises:
        InputError: it has ONNX files and none that can be taken without being named.
    """
    files = sorted(folder.glob("*.onnx")) or sorted((folder / "onnx").glob("*.onnx"))
    if not files:
        return None
    shown = [str(file.relative_to(folder)) for file in files]
    if (folder / "config.json").is_file() and any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        say(
            f"{folder} has weights of transformers beside {', '.join(shown)}: the weights are taken; give the file's "
            "path for the other"
        )
        return None
    chosen = _choose(folder, {file.name: file for file in files}, shown)
    if len(files) > 1:
        say(
            f"{folder} has {', '.join(shown)}: {chosen.relative_to(folder)} is taken; give another file's path for that"
        )
    return chosen


def _choose(folder: Path, files: dict[str, Path], shown: list[str]) -> Path:
    if _ENCODER in files:
        raise InputError(
            f"{folder} holds an encoder-decoder ({', '.join(shown)}), which isn't supported: use an encoder "
            "or a decoder"
        )
    for name in _PREFERRED:
        if name in files:
            return files[name]
    plain = [file for name, file in files.items() if name not in (_CACHED, _MERGED)]
    if not plain:
        raise InputError(
            f"{folder} holds only {', '.join(shown)}, which go on from a cache of earlier tokens: export the model "
            "without (optimum: --task text-generation)"
        )
    if len(plain) > 1:
        raise InputError(
            f"{folder} has {', '.join(shown)}: give the path of one of them instead of the folder"
        )
    return plain[0]
