"""``--exporter optimum``: the model's own names and ties, values compared with the source."""

import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zoedge.errors import InputError, MissingPackageError
from zoedge.export import to_bundle
from zoedge.export.sources.packages import need
from zoedge.tensor_file import map_tensors

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx", exc_type=ImportError)

MODELS = ("tiny_bert", "tiny_gpt2", "tiny_opt", "tiny_resnet")
SLOW = ("tiny_roberta", "tiny_bert_mlm", "tiny_distilbert_mlm", "tiny_llama", "tiny_vit")


@pytest.mark.filterwarnings("ignore")  # optimum's and torch's own
@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_names_ties_and_tensors_are_those_of_the_source(name, request, tmp_path, capfd):
    folder = tmp_path / "source"
    shutil.copytree(request.getfixturevalue(name), folder)
    tensors = load_file(folder / "model.safetensors")
    for key, tensor in tensors.items():
        if tensor.ndim == 1 and not key.endswith("running_var"):
            tensor[...] = key.endswith("weight")  # as every new model has them: equal, and not tied
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    options = {"train": ("full",), "say": lambda text: None}
    wanted = to_bundle(folder, tmp_path / "torch", **options)
    capfd.readouterr()
    got = to_bundle(folder, tmp_path / "optimum", **options, exporter="optimum")
    assert capfd.readouterr() == ("", "")
    assert {p.name: p for p in got.manifest.parameters} == {p.name: p for p in wanted.manifest.parameters}
    assert (got.manifest.task, got.manifest.labels) == (wanted.manifest.task, wanted.manifest.labels)
    held, other = (map_tensors(bundle.path("weights.safetensors")) for bundle in (got, wanted))
    for parameter in got.manifest.parameters:
        np.testing.assert_array_equal(held[parameter.name], other[parameter.name])
    assert {"optimum", "optimum-onnx"} < got.manifest.source.versions.keys()


def test_a_new_head_is_refused(tiny_encoder, tmp_path):
    with pytest.raises(InputError, match=r"a new one is asked for: leave --exporter optimum out"):
        to_bundle(tiny_encoder, tmp_path / "bundle", labels=("a", "b"), exporter="optimum")


@pytest.mark.filterwarnings("ignore")
def test_a_head_for_other_classes_is_new_and_solved(tiny_bert, tmp_path):
    bundle = to_bundle(tiny_bert, tmp_path / "bundle", labels=("a", "b"), exporter="optimum")
    assert bundle.manifest.head.fresh
    assert bundle.manifest.labels == ("a", "b")


def test_an_unknown_exporter_is_refused(tiny_bert, tmp_path):
    with pytest.raises(InputError, match=r"^--exporter onnx is unknown: use torch or optimum$"):
        to_bundle(tiny_bert, tmp_path / "bundle", exporter="onnx")


def test_an_architecture_that_optimum_lacks_is_named(tmp_path):
    from zoedge.export.sources.optimum_export import _export

    model = SimpleNamespace(config=SimpleNamespace(model_type="unheard-of"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            InputError, match=r"^optimum can't export unheard-of for fill-mask \(.*\): leave --exp"
        ):
            _export(model, "fill-mask", tmp_path / "m.onnx")


def test_a_missing_package_is_named_with_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(
        MissingPackageError, match=r"needs the package optimum.exporters.onnx: pip install .*optimum"
    ):
        need("optimum", "optimum.exporters.onnx", purpose="--exporter optimum", extra="optimum")


def test_nothing_else_imports_optimum(tiny_bert, tmp_path):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); from zoedge.export import to_bundle;"
        f"to_bundle({str(tiny_bert)!r}, {str(tmp_path / 'bundle')!r}, train=('norm',));"
        "assert 'optimum' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
