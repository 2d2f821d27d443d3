"""Whether two versions of zoedge make the same runs, bit for bit, on this machine.

    python benchmarks/same_bits.py record FOLDER     # with the old version: makes bundles, runs and digests
    python benchmarks/same_bits.py check FOLDER      # with the new one: the same runs on the same bundles

A digest covers the journal's records, the tuned weights, every loss of the log and what an evaluation says; how
options are written in a header is not part of it. Bits depend on the processor and on onnxruntime, so nothing is
kept but in FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import zoedge
from zoedge.export import to_bundle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "builders"))
import tiny

LORA = {"lora_rank": 4}
BUNDLES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert-lora": (tiny.tiny_bert, LORA),
    "bert-full": (tiny.tiny_bert, {"train": ("full",)}),
    "bert-late": (tiny.tiny_bert, {**LORA, "target_modules": ("*layer.1*",)}),
    "encoder-head": (
        tiny.tiny_encoder,
        {"labels": ("no", "yes"), "task": "text-classification", "train": ("lora",)},
    ),
    "opt-lora": (tiny.tiny_opt, LORA),
    "opt-full": (tiny.tiny_opt, {"train": ("full",)}),
    "opt-int8": (tiny.tiny_opt, {**LORA, "quantize": "int8"}),
    "opt-int4": (tiny.tiny_opt, {**LORA, "quantize": "int4"}),
    "vit-bitfit": (tiny.tiny_vit, {"train": ("bitfit", "head")}),
}
_COMMON = {"steps": 6, "batch_size": 4, "threads": 1, "seed": 3, "eval_every": 3, "val_size": 0.25}
METHODS = ("fzoo", "meazo", "mezo", "subzero")
EXTRAS: dict[str, tuple[str, dict[str, Any]]] = {
    "decay": ("bert-full", {"method": "mezo", "weight_decay": 0.1, "queries": 2, "lr": 1e-4}),
    "decay-out": ("bert-full", {"method": "mezo", "weight_decay": 0.1, "placement": "out-of-place", "lr": 1e-4}),
    "in-place": ("bert-full", {"method": "fzoo", "placement": "in-place", "weight_decay": 0.1}),
    "elements": ("bert-full", {"method": "mezo", "active_elements": 0.5, "placement": "in-place"}),
    "layers": ("bert-full", {"method": "fzoo", "active_layers": 0.5}),
    "subzero-window": ("bert-full", {"method": "subzero", "rank": 3, "refresh": 2, "weight_decay": 0.1}),
    "subzero-branch": ("opt-lora", {"method": "subzero", "rank": 2, "refresh": 2, "lr": 1e-3}),
    "lezo": ("bert-full", {"method": "lezo", "weight_decay": 0.1}),
    "cons": ("bert-late", {"method": "zo-sgd-cons", "queries": 2}),
    "dizo": ("bert-full", {"method": "dizo", "project_every": 2, "project_steps": 2, "placement": "in-place"}),
    "dizo-out": ("opt-lora", {"method": "dizo", "project_every": 1, "project_steps": 2}),
    "lozo": ("bert-full", {"method": "lozo", "refresh": 2}),
    "lozo-branch": ("opt-int8", {"method": "lozo-m", "refresh": 2}),
    "helene": ("opt-lora", {"method": "helene", "curvature_every": 2}),
    "layer-scales": ("bert-full", {"method": "mezo", "layer_scaling": "variance"}),
    "signs": ("opt-full", {"method": "mezo", "directions": "rademacher"}),
    "factors": ("opt-int8", {"method": "meazo", "lora_space": "factors"}),
    "diverging": ("opt-lora", {"method": "mezo", "lora_space": "factors", "lr": 1e30}),
    "one-pass": ("bert-late", {"method": "fzoo", "points_per_pass": 1}),
    "unpacked": ("opt-full", {"method": "mezo", "prepack": "no"}),
    "objective": ("bert-lora", {"method": "fzoo", "objective": "accuracy"}),
    "random-head": ("encoder-head", {"method": "fzoo", "head_init": "random"}),
}  # fmt: skip


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "check"):
        sys.exit(__doc__)
    mode, folder = sys.argv[1], Path(sys.argv[2])
    bundles = folder / "bundles"
    if mode == "record":
        for name, (make, settings) in BUNDLES.items():
            source = make(folder / "sources" / name)
            to_bundle(source, bundles / name, **settings)
    found = dict(_digests(bundles))
    file = folder / "digests.json"
    if mode == "record":
        file.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} runs recorded")
        return
    wanted = json.loads(file.read_text())
    different = [name for name in wanted if found.get(name) != wanted[name]]
    for name in different:
        print(name, {k: v for k, v in (found.get(name) or {}).items() if wanted[name].get(k) != v})
    print(f"{len(wanted) - len(different)} of {len(wanted)} runs have the same bits")
    sys.exit(bool(different))


def _digests(bundles: Path) -> Iterator[tuple[str, dict[str, str]]]:
    cases = {
        f"{name} {method}": (name, {"method": method}) for name in BUNDLES for method in METHODS
    } | EXTRAS
    for case, (name, settings) in cases.items():
        with tempfile.TemporaryDirectory() as scratch:
            yield case, _run(bundles / name, {**_COMMON, **settings}, Path(scratch))
        print(case, file=sys.stderr)


def _run(bundle: Path, settings: dict[str, Any], scratch: Path) -> dict[str, str]:
    """Return digests of a whole run, of one that was continued, and of a replay."""
    data = _rows(bundle, scratch)
    try:
        run = zoedge.tune(bundle, data, scratch / "run", _options(settings))
    except zoedge.ZoedgeError as error:
        return {"error": type(error).__name__}
    found = _of(scratch / "run", "run")
    found["eval"] = _digest(
        json.dumps(zoedge.evaluate(run.folder, data, split="train"), sort_keys=True).encode()
    )
    zoedge.tune(bundle, data, scratch / "half", _options({**settings, "steps": 3, "lr_schedule": "constant"}))
    zoedge.tune(bundle, data, scratch / "half", _options({"steps": 6}), resume=True)
    found |= _of(scratch / "half", "resumed")
    shutil.rmtree(scratch / "half")
    zoedge.replay(run.folder, scratch / "replayed")
    found["replayed"] = _digest(*(_arrays(p) for p in sorted((scratch / "replayed").rglob("*.safetensors"))))
    return found


def _options(settings: dict[str, Any]) -> Any:
    from zoedge.options import make

    return make(settings)


def _of(run: Path, what: str) -> dict[str, str]:
    from zoedge.runtime.run.journal import encode_record, read_journal

    records = read_journal(run / "journal.zoj").records
    weights = [_arrays(p) for p in sorted(run.glob("*/tensors.safetensors"))]
    return {f"{what} records": _digest(*map(encode_record, records)), f"{what} weights": _digest(*weights)}


def _arrays(path: Path) -> bytes:
    return b"".join(name.encode() + a.tobytes() for name, a in sorted(load_file(path).items()))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _rows(bundle: Path, scratch: Path) -> Path:
    """Write rows that suit the bundle's task."""
    manifest, rng = zoedge.Bundle.open(bundle).manifest, np.random.default_rng(0)
    if manifest.task == "image-classification":
        port = manifest.inputs[0]
        images = rng.integers(0, 255, (24, *map(int, port.shape[2:]), int(port.shape[1]))).astype(np.uint8)
        np.savez(scratch / "rows.npz", image=images, label=rng.integers(0, 3, 24))
        return scratch / "rows.npz"
    words = tiny.WORDS
    texts = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(24)]
    rows = [
        {"prompt": text, "completion": " " + words[int(rng.integers(len(words)))]}
        if manifest.task == "text-generation"
        else {"text": text, "label": manifest.labels[int(rng.integers(len(manifest.labels)))]}
        for text in texts
    ]
    path = scratch / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main()
