"""Which packages an export needs: onnx alone for an ``.onnx`` file, and a sentence where one is absent."""

import json
import subprocess
import sys

from tests.builders.models import (
    convnet,
    save,
)
from zoedge import Bundle
from zoedge.installed import pip_line

_WITHOUT = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx_ir", "onnxscript", "optimum", "transformers", "scipy", *sys.argv[3:]}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from zoedge.export import to_bundle
from zoedge.errors import ZoedgeError
try:
    bundle = to_bundle(sys.argv[1], sys.argv[2], loss="cross-entropy", train=("full",))
    print(json.dumps([p.name for p in bundle.manifest.trainable]))
except ZoedgeError as error:
    print(json.dumps([type(error).__name__, str(error), error.exit_code]))
"""


def without(tmp_path, *blocked):
    path = save(convnet(), tmp_path / "m.onnx")
    command = [sys.executable, "-c", _WITHOUT, str(path), str(tmp_path / "bundle"), *blocked]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_an_onnx_file_is_exported_with_onnx_as_the_only_extra(tmp_path):
    assert "conv1.weight" in without(tmp_path)
    assert Bundle.open(tmp_path / "bundle").manifest.task == "classification"


def test_a_missing_package_is_named_with_the_pip_line(tmp_path):
    assert without(tmp_path, "onnx") == [
        "MissingPackageError", f"exporting a model needs the package onnx: {pip_line('onnx')}", 2,
    ]  # fmt: skip
    assert without(tmp_path, "onnxruntime") == [
        "MissingPackageError", f"checking an exported model needs the package onnxruntime: {pip_line('cpu')}", 2,
    ]  # fmt: skip
