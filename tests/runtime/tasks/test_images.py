from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoedge.errors import DataError
from zoedge.manifest import Image
from zoedge.runtime.tasks.images import pixel_values, resize

SIZE = st.integers(1, 20)


@given(SIZE, SIZE, SIZE, SIZE, st.integers(1, 3))
def test_resize_is_that_of_torch(height, width, new_height, new_width, channels):
    image = (
        np.random.default_rng(height * width).uniform(0, 255, (channels, height, width)).astype(np.float32)
    )
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None], (new_height, new_width), mode="bilinear", align_corners=False
    )[0]
    ours = resize(image, new_height, new_width)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-3)


def test_resize_by_hand():
    image = np.array([[[0.0, 4.0]]], np.float32)
    # centres of four pixels over two: -0.25, 0.25, 0.75, 1.25; outside the first and last centre nothing changes
    np.testing.assert_array_equal(resize(image, 1, 4), [[[0.0, 1.0, 3.0, 4.0]]])
    np.testing.assert_array_equal(resize(image, 1, 1), [[[2.0]]])


def test_normalised_per_channel_by_hand():
    settings = Image(channels=3, height=1, width=2, rescale=0.1, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0))
    pixels = np.array([[[0, 10, 20], [30, 40, 50]]], np.uint8)
    expected = [[[0.0, 3.0]], [[0.0, 1.5]], [[0.0, 0.75]]]
    for image in (pixels, pixels.transpose(2, 0, 1)):
        got = pixel_values(image, settings, "x")
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (1, 4, 4)])
def test_grey_is_repeated(shape):
    settings = Image(channels=3, height=4, width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = np.arange(16, dtype=np.uint8).reshape(shape)
    colour = np.repeat(image.reshape(4, 4, 1), 3, axis=2)
    np.testing.assert_array_equal(pixel_values(image, settings, "x"), pixel_values(colour, settings, "x"))


def test_without_mean_and_std():
    got = pixel_values(np.full((2, 2), 51, np.uint8), Image(channels=1, height=2, width=2), "x")
    np.testing.assert_allclose(got, np.full((1, 2, 2), 0.2), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 4), (4, 4, 4), (1, 3, 4, 4), (0, 4), (4, 4, 0)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(DataError, match=r"x:1 has an image of shape \[.*\], and the model takes 3 channels"):
        pixel_values(np.zeros(shape, np.uint8), Image(channels=3, height=4, width=4), "x:1")


def test_colours_for_a_grey_model():
    with pytest.raises(DataError, match="takes 1 channels"):
        pixel_values(np.zeros((4, 4, 3), np.uint8), Image(channels=1, height=4, width=4), "x:1")


def test_pixels_that_are_no_numbers():
    with pytest.raises(DataError, match="has an image of <U1: give numbers"):
        pixel_values(np.array([["a"]]), Image(channels=1, height=1, width=1), "x:1")
