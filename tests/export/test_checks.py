"""What the checks accept and refuse."""

import numpy as np
import pytest
from scipy.special import log_softmax

from zoedge.errors import ZoedgeError
from zoedge.export.checks import check_close, draw_labels, draw_positions, label_logits
from zoedge.export.numpy_losses import NUMPY_LOSSES
from zoedge.manifest import Manifest, Port, Source, Text

VALUES = np.array([1.0, -4.0, 2.0], np.float32)


def manifest(loss, *, positions=None, words=()):
    ids = Port(name="input_ids", dtype="int64", shape=("batch", "sequence"))
    inputs = (
        (ids,)
        if positions is None
        else (ids, Port(name="label_positions", dtype="int64", shape=("batch", positions)))
    )
    return Manifest(
        format=1, zoedge="test", task="text-generation", loss=loss, source=Source(kind="onnx", name="test"),
        inputs=inputs, targets=(), outputs=(), model_inputs=(), model_outputs=(), parameters=(),
        text=Text(max_length=9, pad_id=0, label_word_ids=words),
    )  # fmt: skip


def test_differences_count_relative_to_the_largest_value():
    check_close(VALUES + np.float32(3e-4), VALUES, 1e-4, "y")
    with pytest.raises(ZoedgeError) as error:
        check_close(VALUES + np.float32(8e-4), VALUES, 1e-4, "y")
    assert str(error.value) == (
        "y differs from the source by 2.0e-04 of its largest value, above 1e-04: the bundle is not written"
    )
    check_close(VALUES + np.float32(8e-4), VALUES, 1e-4, "y", scale=100.0)


def test_shapes_and_finiteness_must_agree():
    with pytest.raises(ZoedgeError, match=r"^y has the shape \[3\] instead of \[1, 3\]"):
        check_close(VALUES, VALUES[None], 1.0, "y")
    with pytest.raises(ZoedgeError, match=r"^y is not finite where"):
        check_close(np.array([np.nan, 1.0]), np.array([0.0, 1.0]), 1.0, "y")
    check_close(np.array([-np.inf, 1.0]), np.array([-np.inf, 1.0]), 0.0, "y")


def test_positions_lie_inside_each_text_with_the_last_token_first():
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    inputs = {"input_ids": mask, "attention_mask": mask}
    for seed in range(20):
        (positions,) = draw_positions(
            manifest("token-cross-entropy", positions="p"), inputs, np.random.default_rng(seed)
        ).values()
        assert positions[:, 0].tolist() == [3, 0]
        assert (positions >= 0).all()
        assert (positions < [[4], [1]]).all()
    assert draw_positions(manifest("cross-entropy"), inputs, np.random.default_rng(0)) == {}


@pytest.mark.parametrize("loss", sorted(NUMPY_LOSSES))
def test_labels_fit_their_loss(loss):
    logits = np.zeros((50, 4, 6) if loss == "token-cross-entropy" else (50, 6), np.float32)
    (labels,) = draw_labels(manifest(loss), logits, np.random.default_rng(0)).values()
    if loss in ("mse", "bce-with-logits"):
        assert (labels.dtype, labels.shape) == (np.float32, logits.shape)
        assert (set(np.unique(labels)) == {0.0, 1.0}) == (loss == "bce-with-logits")
    else:
        assert (labels.dtype, labels.shape) == (np.int64, logits.shape[:-1])
        assert set(np.unique(labels)) == set(range(6)) | ({-100} if labels.ndim == 2 else set())
        assert (labels.reshape(50, -1)[:, 0] >= 0).all()


def test_label_words_select_columns_at_the_position():
    logits = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    inputs = {"label_positions": np.array([[2]])}
    assert label_logits(manifest("cross-entropy", positions=1, words=(5, 1)), logits, inputs).tolist() == [
        [17.0, 13.0]
    ]


def test_numpy_losses_by_other_formulas():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((4, 3)), rng.integers(0, 2, (4, 3)).astype(float)
    labels = np.array([0, 2, 1, 1])
    loss, _ = NUMPY_LOSSES["cross-entropy"](x, labels)
    np.testing.assert_allclose(loss, -log_softmax(x, 1)[range(4), labels])
    loss, _ = NUMPY_LOSSES["bce-with-logits"](x, t)
    p = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(loss, -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1))
    loss, weight = NUMPY_LOSSES["token-cross-entropy"](x[None], np.array([[0, -100, 1, -100]]))
    np.testing.assert_allclose(loss, [-(log_softmax(x, 1)[0, 0] + log_softmax(x, 1)[2, 1]) / 2])
    assert weight.tolist() == [2.0]
