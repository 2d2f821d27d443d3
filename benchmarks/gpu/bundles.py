"""The bundles that are measured: random weights, exported on the processor, each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common import zoedge
from variants.models import MODELS, save_model
from variants.processes import environment

from gpu.names import BUNDLES, FAMILIES, bundle_name

# how each kind of bundle is exported
EXPORT = {
    "small-full": ("--train", "full"),
    "small-lora": ("--train", "lora"),
    "large-lora": ("--train", "lora", "--target-modules", "q_proj,v_proj"),
}
HALF = ("large-lora",)  # the model's weights are rounded to float16 before it is exported


def missing(folder: Path, family: str) -> list[str]:
    """Return which of ``BUNDLES`` are not in the folder."""
    return [b for b in BUNDLES if not (folder / bundle_name(family, b) / "bundle.json").is_file()]


def make(folder: Path, family: str, wanted: list[str]) -> None:
    """Export what is missing of the wanted bundles."""
    folder.mkdir(parents=True, exist_ok=True)
    for bundle in [b for b in missing(folder, family) if b in wanted]:
        target = folder / bundle_name(family, bundle)
        shutil.rmtree(target, ignore_errors=True)
        model = FAMILIES[family][bundle.partition("-")[0]]
        with TemporaryDirectory(dir=folder) as work:
            source = Path(work) / model
            # what making a model leaves in memory is gone before it is exported
            command = [
                sys.executable,
                "-P",
                "-m",
                "gpu.bundles",
                model,
                str(source),
                str(int(bundle in HALF)),
            ]
            subprocess.run(command, check=True, env=environment())
            arguments = (str(source), "-o", str(target), "--task", "text-generation", *EXPORT[bundle])
            zoedge("export", *arguments)


def _main(model: str, target: Path, *, half: bool) -> None:
    save_model(MODELS[model](), target, half=half)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), half=sys.argv[3] == "1")
