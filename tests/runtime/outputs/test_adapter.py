import json
import warnings
from contextlib import contextmanager

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from tests.builders.hand_bundle import DENSE, LORA, SHAPES, hand_bundle, logits, tensors, tuned
from zoedge.adapters import LoraBranch
from zoedge.errors import BundleError, InputError
from zoedge.manifest import Head, Source, Text
from zoedge.runtime.outputs import write_adapter_files

X = np.random.default_rng(7).standard_normal((5, 4), np.float32)
BIASES = ("fc.bias", "classifier.bias")


def adapted_logits(bundle, file):
    """What onnxruntime computes with its own adapter class beside the bundle's graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(bundle.path("model_adapters.onnx")), options, providers=["CPUExecutionProvider"]
    )
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(file))
    run = onnxruntime.RunOptions()
    run.add_active_adapter(adapter)
    return session.run(["logits"], {"x": X}, run)[0]


def test_onnxruntime_s_adapter_computes_what_was_tuned(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    values = tuned(LORA)
    assert write_adapter_files(bundle, values, str(tmp_path / "a.onnx_adapter")) == []
    np.testing.assert_allclose(
        adapted_logits(bundle, tmp_path / "a.onnx_adapter"), logits(X, values), rtol=1e-4, atol=1e-4
    )


def test_tuned_tensors_that_the_graph_takes_go_with_the_adapter(tmp_path):
    """A head beside the branches: an adapter without it would be of no use."""
    names = (*LORA, "classifier.weight", "classifier.bias")
    bundle = hand_bundle(tmp_path / "bundle", trainable=names)
    values = tuned(names)
    assert write_adapter_files(bundle, values, tmp_path / "a.onnx_adapter") == []
    np.testing.assert_allclose(
        adapted_logits(bundle, tmp_path / "a.onnx_adapter"), logits(X, values), rtol=1e-4, atol=1e-4
    )


def test_tuned_tensors_that_the_graph_holds_are_named(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")  # only the factors are inputs
    values = tuned((*LORA, "fc.bias", "classifier.weight"))
    left_out = write_adapter_files(bundle, values, tmp_path / "a.onnx_adapter")
    assert left_out == ["classifier.weight", "fc.bias"]
    only = {name: values[name] for name in LORA}
    np.testing.assert_allclose(
        adapted_logits(bundle, tmp_path / "a.onnx_adapter"), logits(X, only), rtol=1e-4, atol=1e-4
    )


def test_a_graph_that_does_not_take_a_factor_is_refused(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    plain = bundle.path("model.onnx").read_bytes()
    bundle.path("model_adapters.onnx").write_bytes(plain)
    with pytest.raises(
        BundleError, match=r"doesn't take fc\.lora_A\.weight as an input: export the bundle again"
    ):
        write_adapter_files(bundle, tuned(LORA), tmp_path / "a.onnx_adapter")
    assert not (tmp_path / "a.onnx_adapter").exists()


@contextmanager
def chatty():
    """PEFT and torch warn about their own defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def torch_net():
    """The bundle's network as a torch module with a Conv1D of transformers in it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers.pytorch_utils import Conv1D

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(4, 8)
            self.mix = Conv1D(8, 8)
            self.classifier = torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.classifier(self.mix(torch.relu(self.fc(x))))

    net = Net().eval()
    state = {name: torch.from_numpy(value) for name, value in tensors()[0].items()}
    net.load_state_dict(state | {"mix.bias": torch.zeros(8)})
    return net


def peft_logits(folder, net=None):
    net = torch_net() if net is None else net
    import peft
    import torch

    with chatty(), torch.no_grad():
        return peft.PeftModel.from_pretrained(net, folder)(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize(
    "names",
    [LORA, (*LORA, "classifier.weight", "classifier.bias"), (*LORA, "classifier.weight"), (*LORA, *BIASES)],
    ids=["lora", "head", "half a head", "biases"],
)
def test_peft_computes_what_was_tuned(tmp_path, names):
    bundle = hand_bundle(tmp_path / "bundle", trainable=names)
    values = tuned(names)
    assert write_adapter_files(bundle, values, tmp_path / "peft") == []
    np.testing.assert_allclose(peft_logits(tmp_path / "peft"), logits(X, values), rtol=1e-4, atol=1e-4)


def test_what_peft_has_no_place_for_is_named(tmp_path):
    names = LORA + DENSE
    bundle = hand_bundle(tmp_path / "bundle", trainable=names)
    values = tuned(names)
    left_out = write_adapter_files(bundle, values, tmp_path / "peft")
    assert left_out == ["fc.weight", "mix.weight"]  # matrices beside a branch
    carried = {name: value for name, value in values.items() if name not in left_out}
    np.testing.assert_allclose(peft_logits(tmp_path / "peft"), logits(X, carried), rtol=1e-4, atol=1e-4)


def test_a_matrix_without_a_branch_replaces_its_module(tmp_path):
    mix = LoraBranch(
        module="mix",
        weight="mix.weight",
        shape=SHAPES["mix"],
        transposed=True,
        a=LORA[2],
        b=LORA[3],
        rank=2,
        alpha=8.0,
    ).branch
    names = (*LORA[2:], "fc.weight")
    bundle = hand_bundle(tmp_path / "bundle", trainable=names, branches=(mix,))
    values = tuned(names)
    assert write_adapter_files(bundle, values, tmp_path / "peft") == []
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier", "fc"]
    np.testing.assert_allclose(peft_logits(tmp_path / "peft"), logits(X, values), rtol=1e-4, atol=1e-4)


def test_branches_of_several_ranks(tmp_path):
    fc = LoraBranch(
        module="fc",
        weight="fc.weight",
        shape=SHAPES["fc"],
        transposed=False,
        a=LORA[0],
        b=LORA[1],
        rank=1,
        alpha=2.5,
    ).branch
    mix = LoraBranch(
        module="mix",
        weight="mix.weight",
        shape=SHAPES["mix"],
        transposed=True,
        a=LORA[2],
        b=LORA[3],
        rank=2,
        alpha=8.0,
    ).branch
    bundle = hand_bundle(tmp_path / "bundle", branches=(mix, fc))
    values = tuned(LORA)
    values[LORA[0]], values[LORA[1]] = values[LORA[0]][:1], values[LORA[1]][:, :1]
    write_adapter_files(bundle, values, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 8)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({"fc": 1}, {"fc": 2.5})
    values[LORA[0]] = values[LORA[0]] * (2.5 / 4.0)  # the reference knows one scale, 8 / 2
    np.testing.assert_allclose(peft_logits(tmp_path / "peft"), logits(X, values), rtol=1e-4, atol=1e-4)


def test_the_files_of_an_adapter(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    values = tuned(LORA)
    write_adapter_files(bundle, values, tmp_path / "peft")
    assert sorted(p.name for p in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    np.testing.assert_array_equal(stored["base_model.model.fc.lora_A.weight"], values["fc.lora_A.weight"])
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "base_model_name_or_path": "Net",
        "revision": None,
        "r": 2,
        "lora_alpha": 8,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["fc", "mix"],
        "fan_in_fan_out": True,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "task_type": None,
        "modules_to_save": ["classifier"],
        "bias": "none",
    }


def test_a_safetensors_file_has_its_configuration_beside_it(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    write_adapter_files(bundle, tuned(LORA), tmp_path / "out" / "adapter_model.safetensors")
    np.testing.assert_allclose(peft_logits(tmp_path / "out"), logits(X, tuned(LORA)), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"adapter_config\.json exists already: choose another output folder"
    ):
        write_adapter_files(bundle, tuned(LORA), tmp_path / "out" / "other.safetensors")
    assert not (tmp_path / "out" / "other.safetensors").exists()


TEXT = Text(max_length=8, pad_id=0)


@pytest.mark.parametrize(
    ("task", "text", "head", "expected"),
    [
        ("text-classification", TEXT, "classifier.weight", "SEQ_CLS"),
        ("text-classification", TEXT, "fc.weight", None),  # not a name that PEFT replaces by itself
        ("text-generation", TEXT, None, "CAUSAL_LM"),
        ("text-classification", Text(max_length=8, pad_id=0, template="{text} {label}"), None, "CAUSAL_LM"),
        (
            "text-classification",
            Text(max_length=8, pad_id=0, template="{text} {label}", mask_id=1),
            None,
            None,
        ),
        ("fill-mask", Text(max_length=8, pad_id=0, mask_id=1), None, None),
        ("image-classification", None, "classifier.weight", None),
    ],
)
def test_task_types(tmp_path, task, text, head, expected):
    bundle = hand_bundle(tmp_path / "b", task=task, text=text, head=Head(weight=head) if head else None)
    write_adapter_files(bundle, tuned(LORA), tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["task_type"] == expected


@pytest.mark.parametrize(
    ("architecture", "left_out"), [("BertModel", True), ("BertForSequenceClassification", False)]
)
def test_a_head_that_the_source_lacks_is_left_out(tmp_path, architecture, left_out):
    names = (*LORA, "classifier.weight", "classifier.bias")
    bundle = hand_bundle(
        tmp_path / "bundle",
        trainable=names,
        source=Source(kind="huggingface", name="org/model", revision="abc"),
        head=Head(weight="classifier.weight", bias="classifier.bias", fresh=True),
        files={"config.json": json.dumps({"architectures": [architecture]}).encode()},
    )
    expected = ["classifier.bias", "classifier.weight"] if left_out else []
    assert write_adapter_files(bundle, tuned(names), tmp_path / "peft") == expected
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "abc")
    assert config["modules_to_save"] == (None if left_out else ["classifier"])


def test_an_onnx_source_has_no_peft_form(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle", source=Source(kind="onnx", name="net.onnx"))
    with pytest.raises(InputError) as caught:
        write_adapter_files(bundle, tuned(LORA), tmp_path / "peft")
    assert str(caught.value) == (
        "PEFT can't load net.onnx, an ONNX file: write NAME.onnx_adapter or use zoedge merge instead"
    )
    assert not (tmp_path / "peft").exists()


def test_a_bundle_without_branches_has_no_adapter(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle", lora=False, trainable=DENSE)
    with pytest.raises(InputError) as caught:
        write_adapter_files(bundle, tuned(DENSE), tmp_path / "a.onnx_adapter")
    assert str(caught.value) == (
        f"{tmp_path / 'bundle'} has no branches to write as an adapter: "
        "use zoedge merge, or export with --train lora and tune again"
    )


@pytest.mark.parametrize("name", ["a.onnx_adapter", "a.safetensors", "a"])
def test_an_existing_output_is_left_alone(tmp_path, name):
    bundle = hand_bundle(tmp_path / "bundle")
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="exists already: choose another output"):
        write_adapter_files(bundle, tuned(LORA), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
