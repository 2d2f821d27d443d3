"""The pip line that a missing package is answered with."""

import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from zoedge import installed
from zoedge.errors import MissingPackageError

REQUIRES = [
    "numpy>=1.26",
    'onnxruntime>=1.23; extra == "cpu"',
    'onnx>=1.17; extra == "onnx"',
    'onnx>=1.17; extra == "export"',
    'torch>=2.9; extra == "export"',
]


class Distribution:
    version = "9.9"
    requires = REQUIRES

    def __init__(self, url):
        self._url = url

    def read_text(self, name):
        return {"direct_url.json": self._url, "RECORD": ""}[name]


@pytest.mark.parametrize(
    ("url", "extra", "line"),
    [
        (None, "onnx", "pip install 'zoedge[onnx]'"),
        ("{}", "onnx", "pip install 'onnx>=1.17'"),
        ("{}", "export", "pip install 'onnx>=1.17' 'torch>=2.9'"),
    ],
)
def test_the_line_works_from_an_index_and_from_a_clone(monkeypatch, url, extra, line):
    monkeypatch.setattr(installed, "distribution", lambda name: Distribution(url))
    assert installed.pip_line(extra) == line
    assert str(MissingPackageError("x", extra, "doing this")) == f"doing this needs the package x: {line}"


def test_a_clone_that_was_never_installed(monkeypatch):
    def absent(name):
        raise installed.PackageNotFoundError(name)

    monkeypatch.setattr(installed, "distribution", absent)
    assert installed.version() == "0"
    assert installed.pip_line("onnx") == "pip install 'onnx>=1.17'"
    assert installed.pip_line("export").startswith("pip install 'onnx>=1.17' 'onnxscript>=")


def test_this_installation_names_every_extra_s_packages():
    for extra in ("cpu", "onnx", "export", "chat", "data"):
        assert "zoedge[" not in installed.pip_line(extra)


def test_a_version_is_the_module_s_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "brought_by_another_wheel", SimpleNamespace(__version__="1.2"))
    assert installed.module_version("brought_by_another_wheel") == "1.2"
    assert installed.module_version("numpy") == version("numpy")
