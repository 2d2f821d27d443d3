import numpy as np
import pytest

from zoedge.export.sources.samples import image_samples, like_samples, text_samples
from zoedge.manifest import Image

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def draw(sample, batch, length, seed=0):
    return sample(np.random.default_rng(seed), batch, length)


def test_token_batches_are_padded_on_the_right():
    arrays = draw(text_samples(range(5, 50), 1, NAMES, 64), 40, 9)
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    lengths = mask.sum(1)
    assert all(array.shape == (40, 9) and array.dtype == np.int64 for array in arrays.values())
    assert lengths[0] == 9
    assert set(lengths) == set(range(1, 10))
    np.testing.assert_array_equal(mask, np.arange(9) < lengths[:, None])
    assert (ids[mask == 0] == 1).all()
    assert ids[mask == 1].min() >= 5
    assert set(arrays["token_type_ids"][mask == 1]) == {0, 1}


def test_only_the_models_inputs_and_no_longer_than_it_takes():
    arrays = draw(text_samples([5, 6], 0, NAMES[:2], 8), 2, 100)
    assert list(arrays) == ["input_ids", "attention_mask"]
    assert arrays["input_ids"].shape == (2, 8)
    assert draw(text_samples([5, 6], 0, NAMES[:2], None), 2, 100)["input_ids"].shape == (2, 100)


def test_pixels():
    arrays = draw(image_samples(Image(channels=1, height=4, width=6), "x"), 3, 0)
    assert arrays["x"].shape == (3, 1, 4, 6)
    assert arrays["x"].dtype == np.float32


def test_like_an_example():
    examples = {
        "x": np.full((2, 3), 7.0, np.float32) + np.array([[-1], [1]], np.float32),
        "ids": np.array([[3, 9]]),
        "flag": np.array([True, False]),
    }
    shapes = {"x": ("batch", 3), "ids": ("batch", "time"), "flag": (2,)}
    arrays = draw(like_samples(examples, shapes), 500, 20)
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "x": ((500, 3), np.float32),
        "ids": ((500, 20), np.int64),
        "flag": ((2,), np.bool_),
    }
    assert arrays["x"].mean() == pytest.approx(7.0, abs=0.2)
    assert arrays["x"].std() == pytest.approx(1.0, abs=0.1)
    assert set(arrays["ids"].ravel()) == set(range(3, 10))


def test_a_constant_example_still_varies():
    arrays = draw(like_samples({"x": np.zeros((1, 2), np.float32)}, {"x": ("batch", 2)}), 50, 0)
    assert arrays["x"].std() > 0.5


def test_the_seed_decides():
    sample = text_samples(range(5, 50), 1, NAMES, 64)
    np.testing.assert_array_equal(draw(sample, 4, 9)["input_ids"], draw(sample, 4, 9)["input_ids"])
    assert (draw(sample, 4, 9)["input_ids"] != draw(sample, 4, 9, seed=1)["input_ids"]).any()
