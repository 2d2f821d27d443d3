import json

import pytest
from transformers import ViTConfig

from zoedge.errors import InputError
from zoedge.export.sources.hf_image import image_settings
from zoedge.export.sources.hf_origin import locate
from zoedge.manifest import Image


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def read(content, **config):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        return image_settings(locate(tmp_path), ViTConfig(**config))

    return read


NORM = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ({"size": {"height": 20, "width": 30}}, (20, 30)),
        ({"size": {"shortest_edge": 24}}, (24, 24)),
        ({"size": 24}, (24, 24)),
        (
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 26}, "do_center_crop": True},
            (28, 26),
        ),
        ({"size": {"shortest_edge": 32}, "crop_size": 28, "do_center_crop": False}, (32, 32)),
    ],
)
def test_size_is_what_the_model_sees(settings, size, wanted):
    image = settings(NORM | size)
    assert (image.height, image.width) == wanted


def test_all_settings(settings):
    image = settings(NORM | {"size": 8, "rescale_factor": 0.5})
    assert image == Image(
        channels=3, height=8, width=8, rescale=0.5, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )


def test_steps_that_the_source_leaves_out(settings):
    image = settings(NORM | {"size": 8, "do_rescale": False, "do_normalize": False}, num_channels=1)
    assert image == Image(channels=1, height=8, width=8, rescale=1.0)


def test_rescale_is_a_byte_range_by_default(settings):
    assert settings({"size": 8}).rescale == 1 / 255


def test_no_size(settings):
    with pytest.raises(
        InputError, match=r"has the size {'longest_edge': 8}: it should give height and width"
    ):
        settings({"size": {"longest_edge": 8}})


def test_no_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no preprocessor_config.json: save its image processor"):
        image_settings(locate(tmp_path), ViTConfig())
