"""The main job on a small scale: export, tune, eval, as a user would type it.

python demo.py FOLDER
"""

from __future__ import annotations

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


def main(folder: Path) -> None:
    """Run the demo in a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    print("A network is trained in the lab; the device sees other conditions.", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / "make.py"), str(folder)], check=True)
    bundle, run, data = str(folder / "bundle"), str(folder / "run"), str(folder)
    zoedge("export", str(folder / "digits.onnx"), "-o", bundle, "--task", "classification", "--train", "full")
    before = json.loads(zoedge("eval", bundle, "--data", data, "--json"))
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
    )
    after = json.loads(zoedge("eval", run, "--data", data, "--json"))
    zoedge("merge", run, "-o", str(folder / "tuned"))
    print(
        f"\naccuracy on the device: {before['accuracy']:.3f} before, {after['accuracy']:.3f} after "
        f"({time.monotonic() - started:.0f} s, forward passes alone)"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
