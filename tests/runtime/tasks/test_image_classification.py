from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from transformers.image_transforms import normalize, rescale

from tests.builders.bundles import images
from zoedge.errors import BundleError, DataError
from zoedge.manifest import Image
from zoedge.runtime.data import Record, read
from zoedge.runtime.tasks import task_for
from zoedge.runtime.tasks.images import pixel_values

SETTINGS = Image(channels=3, height=4, width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def record(**fields):
    return Record(fields, "data.npz[3]")


def test_pixels_are_those_of_transformers():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    scaled = rescale(image, 1 / 255)
    theirs = normalize(scaled, SETTINGS.mean, SETTINGS.std, input_data_format="channels_last")
    example = task_for(images(SETTINGS)).encode(record(image=image, label="hen"))
    np.testing.assert_allclose(
        example.inputs["pixel_values"], theirs.transpose(2, 0, 1), rtol=1e-5, atol=1e-6
    )
    assert example.targets["labels"] == 2
    assert example.length == 0


def test_archive_with_splits(tmp_path):
    pixels = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "d.npz", train_images=pixels, train_labels=np.array([1, 2], np.uint8))
    task = task_for(images(SETTINGS))
    examples = [task.encode(r) for r in read(tmp_path / "d.npz")]
    assert [int(e.targets["labels"]) for e in examples] == [1, 2]
    np.testing.assert_array_equal(examples[1].inputs["pixel_values"], pixel_values(pixels[1], SETTINGS, "x"))


def test_nested_lists_are_images_too():
    example = task_for(images(SETTINGS)).encode(record(image=[[0] * 4] * 4, label=0))
    assert example.inputs["pixel_values"].shape == (3, 4, 4)


def test_prepared_pixels_are_taken_as_they_are():
    ready = np.random.default_rng(0).normal(size=(3, 4, 4))
    example = task_for(images(SETTINGS)).encode(record(pixel_values=ready, label=0))
    np.testing.assert_array_equal(example.inputs["pixel_values"], ready.astype(np.float32))
    with pytest.raises(DataError, match=r"pixel_values of shape \[4, 4, 3\], which must be \[3, 4, 4\]"):
        task_for(images(SETTINGS)).encode(record(pixel_values=ready.transpose(1, 2, 0), label=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"text": "a cat", "label": 0},
            r"data\.npz\[3\] holds text and this bundle takes images: give a \.npz",
        ),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "holds text and this bundle takes images"),
        (
            {"image": "cat.png", "label": 0},
            "has the text 'cat.png' as 'image' and this bundle takes images: give the pixels",
        ),
        ({"image": [[1, 2], [3]], "label": 0}, "has rows of different lengths as 'image'"),
        ({"pixels": np.zeros((4, 4)), "label": 0}, "has no image: looked for image, images, x, pixel_values"),
        ({"image": np.zeros((4, 4)), "label": "cow"}, "has the label 'cow'"),
        ({"image": np.zeros((4, 4))}, "has no label"),
    ],
)
def test_records_that_do_not_fit(fields, message):
    with pytest.raises(DataError, match=message) as caught:
        task_for(images(SETTINGS)).encode(record(**fields))
    assert "\n" not in str(caught.value)


def test_prediction_needs_no_label():
    task = task_for(images(SETTINGS))
    example = task.encode(record(image=np.zeros((4, 4))), labelled=False)
    assert task.prediction(example, {"logits": np.array([0.0, 5.0, 0.0])})["label"] == "dog"


def test_bundle_that_does_not_say_how():
    bundle = images(SETTINGS)
    broken = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, image=None), folder=Path("b"))
    with pytest.raises(BundleError, match="b doesn't say how images are prepared"):
        task_for(broken)
