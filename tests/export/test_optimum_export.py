"""An ONNX file that optimum exported: values that it merged because they are equal come apart again."""

import shutil
import warnings

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from zoedge.export import to_bundle
from zoedge.tensor_file import map_tensors


@pytest.fixture(scope="module")
def exported(tiny_bert, tmp_path_factory):
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("optimum")
    shutil.copytree(tiny_bert, source, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(".bias"):  # as every new model has them
            tensor[...] = 0.0
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimum's and torch's own
        from optimum.exporters.onnx import main_export

        main_export(str(source), folder, task="text-classification", do_validation=False)
    return folder / "model.onnx"


def test_every_bias_becomes_a_tensor_of_its_own(exported, tmp_path):
    shared = len(onnx.load(exported).graph.initializer)
    bundle = to_bundle(exported, tmp_path / "bundle", task="classification", train=("bitfit",))
    biases = [p.name for p in bundle.manifest.trainable]
    assert "bert.encoder.layer.0.attention.self.query.bias" in biases
    assert "bert.encoder.layer.1.output.dense.bias" in biases
    assert len(bundle.manifest.parameters) > shared  # optimum had merged some
    tensors = map_tensors(bundle.path("weights.safetensors"))
    zeros = [name for name in biases if not np.any(tensors[name])]
    assert len(zeros) > 1  # equal, and yet not tied
