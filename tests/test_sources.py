"""Sixteen kinds of source from end to end: export, five steps, eval, merge; stock onnxruntime agrees with eval."""

import json
import warnings

import numpy as np
import onnxruntime as ort
import pytest

from tests.zoedge.commands import error, run
from zoedge.bundle import Bundle
from zoedge.export.numpy_losses import NUMPY_LOSSES

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sources = pytest.importorskip("tests.builders.sources", exc_type=ImportError)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what torch and quantizers say

FIVE_STEPS = (
    *("--method", "fzoo", "--steps", 5, "--batch-size", 8, "--queries", 4),
    *("--lr", 0.01, "--eps", 0.01, "--eval-every", 0, "--val-size", 0.2),
)
CLASSES = ("--task", "classification")
BOTH = (("--train", "lora"), ("--train", "full"))
FULL = (("--train", "full"), ("--train", "head"), ("--train", "bitfit"))
HEAD = FULL[1:]

CASES = {
    **{name: (lambda folder, name=name: sources.causal(name, folder), (), BOTH) for name in sources.CAUSAL},
    **{name: (lambda folder, name=name: sources.encoder(name, folder), (), BOTH) for name in sources.ENCODERS},
    "BERT fused": (sources.fused_bert, (), BOTH),
    "LSTM": (lambda folder: sources.recurrent(torch.nn.LSTM, folder), CLASSES, FULL),
    "GRU": (lambda folder: sources.recurrent(torch.nn.GRU, folder), CLASSES, FULL),
    "QDQ MLP": (sources.qdq_mlp, CLASSES, (("--train", "lora"),)),
    "QDQ CNN": (sources.qdq_cnn, CLASSES, (("--target-modules", "fc", "--train", "lora"),)),
    "dynamic LSTM": (sources.dynamic_lstm, CLASSES, HEAD),
    "sklearn ZipMap": (sources.sklearn_network, (*CLASSES, "--output-name", "out_activations_result"), BOTH),
}  # fmt: skip
PARAMETERS = [(name, train) for name, (_, _, trains) in CASES.items() for train in trains]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each source once."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("source")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[name] = CASES[name][0](folder)
        return known[name]

    return make


@pytest.mark.parametrize(("name", "train"), PARAMETERS, ids=[f"{n}-{t[-1]}" for n, t in PARAMETERS])
def test_every_source_is_tuned_and_merged(name, train, made, tmp_path, capfd):
    source = made(name)
    capfd.readouterr()
    run("export", source, "-o", tmp_path / "bundle", *train, *CASES[name][1])
    bundle = Bundle.open(tmp_path / "bundle")
    data = write_rows(bundle, tmp_path)
    run("tune", tmp_path / "bundle", "--data", data, "-o", tmp_path / "run", *FIVE_STEPS)
    told = json.loads(run("eval", tmp_path / "run", "--data", data, "--json").stdout)
    before = json.loads(run("eval", tmp_path / "bundle", "--data", data, "--json").stdout)
    run("merge", tmp_path / "run", "-o", tmp_path / "merged")
    assert capfd.readouterr() == ("", "")  # onnxruntime writes to the process's own streams
    assert told["loss"] != before["loss"]  # five steps are in the merged file
    wanted = stock_loss(bundle, tmp_path / "merged" / "model.onnx", data)
    assert capfd.readouterr() == ("", "")
    assert told["loss"] == pytest.approx(wanted, rel=TOLERANCE.get(name, 1e-4))


TOLERANCE = {"QDQ MLP": 2e-2, "QDQ CNN": 2e-2, "dynamic LSTM": 2e-2}  # rounding steps may flip


REFUSED = {
    "LSTM": (("--train", "lora"), "no linear layer for a LoRA branch (convolutions and embeddings get none, the head "
             "only by name): use --train full, --train head or --train bitfit"),
    "QDQ CNN": (("--train", "full"), "can't train a quantised graph (this one computes with "),
    "QDQ MLP": (("--train", "head"), "--train head finds nothing: the output doesn't come from a float32 linear layer: "
                "use --train lora"),
    "dynamic LSTM": (("--train", "full"), "can't train a quantised graph (this one computes with DynamicQuantizeLSTM), "
                     "as rounded weights don't take small steps: use --train head or --train bitfit"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_source_can_not_train_is_refused_with_what_it_can(name, made, tmp_path, capfd):
    source = made(name)
    capfd.readouterr()
    train, wanted = REFUSED[name]
    message = error("export", source, "-o", tmp_path / "bundle", *CLASSES, *train)
    assert wanted in message
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "bundle").exists()


def test_coefficients_that_are_no_tensors_are_refused_with_a_remedy(tmp_path, capfd):
    source = sources.sklearn_linear(tmp_path)
    asked = ("export", source, "-o", tmp_path / "bundle", *CLASSES, "--train", "full")
    assert error(*asked).endswith("choose what it is made from with --output-name probabilities\n")
    message = error(*asked, "--output-name", "probabilities")
    assert (
        "nothing of this file can be tuned: it has no tensors of weights that the loss depends on" in message
    )
    assert "LinearClassifier" in message
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "bundle").exists()


def write_rows(bundle, folder):
    """Write forty rows that fit a bundle; return their file."""
    rng = np.random.default_rng(0)
    m = bundle.manifest
    if m.text is None:
        arrays = {}
        for port in m.inputs:
            shape = [dim if isinstance(dim, int) else 5 for dim in port.shape[1:]]
            arrays[port.name] = rng.standard_normal((40, *shape)).astype(port.dtype)
        np.savez(folder / "rows.npz", labels=np.arange(40) % 3, **arrays)
        return folder / "rows.npz"
    from tests.builders.tiny import WORDS

    rows = []
    for index in range(40):
        text = " ".join(rng.choice(WORDS, 3 + index % 5))
        asked = {"prompt": text, "completion": f" {rng.choice(WORDS)} {rng.choice(WORDS)}"}
        labelled = {"text": text, "label": ("no", "yes")[index % 2]}
        rows.append(labelled if m.task == "text-classification" else asked)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def stock_loss(bundle, path, data):
    """Return the mean loss by stock onnxruntime, one row at a time, from the logits in float64."""
    from zoedge.runtime.data.record import Record
    from zoedge.runtime.tasks import task_for

    options = ort.SessionOptions()
    if clips(bundle):
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    last = next(name for name in outputs if name != "output_label")
    if data.suffix == ".npz":
        held = np.load(data)
        rows = [({n: held[n][i : i + 1] for n in names}, held["labels"][i : i + 1], None) for i in range(40)]
    else:
        task = task_for(bundle)
        rows = []
        for line in data.read_text().splitlines():
            example = task.encode(Record(json.loads(line), "row"))
            given = {n: example.inputs[n][None] for n in names}
            rows.append((given, example.targets["labels"][None], example.inputs.get("label_positions")))
    total = count = 0.0
    for given, labels, positions in rows:
        values = session.run([last], given)[0]
        if isinstance(values, list):  # a dictionary of probabilities a row
            values = np.log([list(row.values()) for row in values])
        if positions is not None:
            values = values[:, positions]
        loss, weight = NUMPY_LOSSES[bundle.manifest.loss](values, labels)
        total += float(loss[0] * weight[0])
        count += float(weight[0])
    return total / count


def clips(bundle):
    from zoedge.sessions import clips_sums

    return bundle.manifest.text is None and clips_sums()
