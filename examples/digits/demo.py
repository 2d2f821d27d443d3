"""The main job on a small scale: export, tune, eval, as a user would type it.

python demo.py FOLDER [--provider cuda]

With the provider of a GPU the same job runs there: the bundle is the same, and so are the commands.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path


def zoedge(*arguments: str) -> str:
    """Show and run a command; return what it printed."""
    print(f"\n$ zoedge {' '.join(arguments)}", flush=True)
    # -P: the folder zoedge beside this one is only a part of the installed package
    command = [sys.executable, "-P", "-m", "zoedge", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(process.returncode)
    return "".join(lines)


def main(folder: Path, provider: str) -> None:
    """Run the demo in a folder, which is emptied first."""
    on = ("--provider", provider)
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    print("A network is trained in the lab; the device sees other conditions.", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / "make.py"), str(folder)], check=True)
    bundle, run, data = str(folder / "bundle"), str(folder / "run"), str(folder)
    zoedge("export", str(folder / "digits.onnx"), "-o", bundle, "--task", "classification", "--train", "full")
    before = json.loads(zoedge("eval", bundle, "--data", data, "--json", *on))
    zoedge(
        "tune",
        bundle,
        "--data",
        data,
        "-o",
        run,
        "--batch-size",
        "64",
        "--steps",
        "1000",
        "--log-every",
        "100",
        *on,
    )
    after = json.loads(zoedge("eval", run, "--data", data, "--json", *on))
    zoedge("merge", run, "-o", str(folder / "tuned"))
    print(
        f"\naccuracy on the device ({provider}): {before['accuracy']:.3f} before, {after['accuracy']:.3f} after "
        f"({time.monotonic() - started:.0f} s, forward passes alone)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="cpu", help="of onnxruntime: cpu or cuda")
    given = parser.parse_args()
    main(given.folder, given.provider)
