"""Language models through the whole pipeline: loss at label positions, label words, tied embeddings."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file

from tests.builders.models import language_model, mlp, run, run_ours, save
from zoedge.adapters import LoraOptions
from zoedge.errors import InputError, ZoedgeError
from zoedge.export.adapters.base import BranchSettings
from zoedge.export.assemble import Request
from zoedge.export.exported import Exported
from zoedge.export.sources.onnx_file import from_onnx
from zoedge.export.writer import write_bundle
from zoedge.manifest import Source, Text

LORA = LoraOptions(lora_rank=2, lora_alpha=4.0)
IDS = np.array([[1, 2, 3, 4, 5, 6], [10, 9, 8, 7, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def exported(*, task="text-generation", words=(), cap=False):
    proto = language_model(cap=cap)
    runnable = onnx.ModelProto()
    runnable.CopyFrom(proto)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.name != "cap"}
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    )
    text = Text(max_length=32, pad_id=0, template="{text} {label}" if words else None, label_word_ids=words)

    def sample(rng, batch, length):
        ids = rng.integers(1, 11, (batch, length))
        mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
        return {"input_ids": ids * mask, "attention_mask": mask.astype(np.int64)}

    return Exported(
        model=proto,
        weights=weights | {"unused": np.ones(3, np.float32)},
        parameters=tuple(weights),
        task=task,
        loss="cross-entropy" if words else "token-cross-entropy",
        logits="logits",
        source=Source(kind="huggingface", name="tiny"),
        sample_inputs=sample,
        reference=lambda inputs: run(runnable, {"input_ids": inputs["input_ids"]}),
        tied={"embed.weight": ("head.weight",)},
        labels=("bad", "good") if words else (),
        text=text,
        files={"tokenizer.json": b"{}"},
    )


def outputs(bundle, inputs):
    session = ort.InferenceSession(str(bundle.path("loss.onnx")), providers=["CPUExecutionProvider"])
    return run_ours(session, inputs)


@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("task", ["text-generation", "fill-mask"])
def test_the_loss_of_label_tokens(tmp_path, task, train, cap):
    source = exported(task=task, cap=cap)
    bundle = write_bundle(source, Request((train,)), tmp_path / "bundle", print)
    positions = np.array([[0, 4, 5], [3, 2, 0]])
    labels = np.array([[2, 5, 6], [1, -100, -100]])
    got = outputs(
        bundle, {"input_ids": IDS, "attention_mask": MASK, "label_positions": positions, "labels": labels}
    )
    logits = source.reference({"input_ids": IDS})["logits"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = [-(log_p[0, 0, 2] + log_p[0, 4, 5] + log_p[0, 5, 6]) / 3, -log_p[1, 3, 1]]
    np.testing.assert_allclose(got["loss"], wanted, rtol=1e-4)
    np.testing.assert_array_equal(got["weight"], [3, 1])
    np.testing.assert_array_equal(got["predictions"], np.take_along_axis(logits.argmax(-1), positions, 1))
    m = bundle.manifest
    assert [(p.name, p.shape) for p in m.inputs] == [
        ("input_ids", ("batch", "sequence")),
        ("attention_mask", ("batch", "sequence")),
        ("label_positions", ("batch", "positions")),
    ]
    assert [(p.name, p.shape) for p in m.targets] == [("labels", ("batch", "positions"))]
    assert [p.name for p in m.outputs] == ["loss", "weight", "predictions"]
    assert m.head is None


def test_label_words(tmp_path):
    source = exported(task="text-classification", words=(7, 2))
    bundle = write_bundle(source, Request(("full", "lora")), tmp_path / "bundle", print)
    inputs = {"input_ids": IDS, "attention_mask": MASK, "label_positions": np.array([[5], [3]])}
    got = outputs(bundle, {**inputs, "labels": np.array([1, 0])})
    logits = source.reference({"input_ids": IDS})["logits"][[0, 1], [5, 3]][:, [7, 2]]
    np.testing.assert_allclose(got["logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["loss"], np.log(np.exp(logits).sum(1)) - logits[[0, 1], [1, 0]], rtol=1e-4)
    m = bundle.manifest
    assert [(p.name, p.shape) for p in m.inputs][-1] == ("label_positions", ("batch", 1))
    assert [(p.name, p.shape) for p in m.outputs] == [
        ("loss", ("batch",)),
        ("weight", ("batch",)),
        ("logits", ("batch", 2)),
    ]
    assert (m.labels, m.head) == (("bad", "good"), None)


def test_a_tied_embedding_is_one_parameter_that_both_uses_follow(tmp_path):
    source = exported()
    bundle = write_bundle(source, Request(("embed",)), tmp_path / "bundle", print)
    (row,) = bundle.manifest.trainable
    assert (row.name, row.group, row.tied_to) == ("embed.weight", "embedding", ("head.weight",))
    proto = language_model()
    changed = source.weights["embed.weight"] * np.float32(1.5)
    for tensor in proto.graph.initializer:
        if tensor.name == "embed.weight":
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    inputs = {"input_ids": IDS, "attention_mask": MASK, "label_positions": np.array([[5], [3]])}
    got = outputs(bundle, {**inputs, "labels": np.array([[1], [4]]), "embed.weight": changed})
    logits = run(proto, {"input_ids": IDS})["logits"][[0, 1], [5, 3]]
    np.testing.assert_allclose(got["loss"], np.log(np.exp(logits).sum(1)) - logits[[0, 1], [1, 4]], rtol=1e-4)


def test_branches_leave_out_the_tied_head(tmp_path):
    bundle = write_bundle(exported(), Request(("lora",), BranchSettings(LORA)), tmp_path / "bundle", print)
    assert [b.module for b in bundle.manifest.branches] == ["layers.0.mlp"]


def test_files_of_the_source_and_tensors_outside_the_graph_are_carried(tmp_path):
    bundle = write_bundle(exported(), Request(("lora",)), tmp_path / "bundle", print)
    assert bundle.path("tokenizer.json").read_bytes() == b"{}"
    assert "tokenizer.json" in bundle.manifest.files
    assert "unused" in load_file(bundle.path("weights.safetensors"))


def test_a_source_whose_reference_differs_is_refused(tmp_path):
    source = exported()
    honest = source.reference
    source.reference = lambda inputs: {"logits": honest(inputs)["logits"] * 1.01}
    with pytest.raises(
        ZoedgeError, match=r"^logits of model.onnx differs from the source by 8.0e-03 of its largest"
    ):
        write_bundle(source, Request(("lora",)), tmp_path / "bundle", print)
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_head_is_trained_even_if_only_branches_are_asked_for(tmp_path):
    source = from_onnx(save(mlp(), tmp_path / "m.onnx"), loss="cross-entropy")
    source.fresh_head = ("classifier.weight", "classifier.bias")
    bundle = write_bundle(source, Request(("lora",)), tmp_path / "bundle", print)
    assert bundle.manifest.head.fresh
    assert {"classifier.weight", "classifier.bias"} < {p.name for p in bundle.manifest.trainable}


def test_the_tied_head_is_no_target_under_its_other_name(tmp_path):
    source = exported()
    with pytest.raises(InputError, match="--target-modules lm_head names no linear layer"):
        write_bundle(
            source, Request(("lora",), BranchSettings(LORA, ("lm_head",))), tmp_path / "bundle", print
        )
