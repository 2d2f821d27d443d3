import json

import numpy as np
import pytest
import torch

from zoedge.errors import InputError
from zoedge.export.sources.hf_origin import locate
from zoedge.export.sources.pooling import declared_pooling, pool

TOKENS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = (5, 2, 1)
MASK = torch.tensor([[1] * n + [0] * (5 - n) for n in LENGTHS])


@pytest.mark.parametrize(
    ("pooling", "by_hand"),
    [("mean", lambda rows: rows.mean(0)), ("cls", lambda rows: rows[0]), ("last", lambda rows: rows[-1])],
)
def test_pooling_reads_only_what_the_mask_shows(pooling, by_hand):
    wanted = np.stack([by_hand(TOKENS[i, :n].numpy()) for i, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(pool(TOKENS, MASK, pooling).numpy(), wanted, rtol=1e-6)


@pytest.fixture
def declare(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "1_Pooling").mkdir()

    def read(**modes):
        content = {"word_embedding_dimension": 4, **{f"pooling_mode_{k}": v for k, v in modes.items()}}
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
        return declared_pooling(locate(tmp_path))

    return read


@pytest.mark.parametrize(
    ("mode", "wanted"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")]
)
def test_declared_by_sentence_transformers(declare, mode, wanted):
    modes = dict.fromkeys(("mean_tokens", "cls_token", "lasttoken", "max_tokens"), False)
    assert declare(**modes | {mode: True}) == wanted


def test_not_declared(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert declared_pooling(locate(tmp_path)) is None


@pytest.mark.parametrize(
    ("modes", "named"),
    [
        ({"max_tokens": True}, "pooling_mode_max_tokens"),
        ({"mean_tokens": True, "cls_token": True}, r"pooling_mode_mean_tokens \+ pooling_mode_cls_token"),
        ({}, "no pooling"),
    ],
)
def test_other_declarations(declare, modes, named):
    with pytest.raises(InputError, match=f"declares {named}: set exactly one of"):
        declare(**modes)
