"""Fixtures that several test files share: one tiny model folder of each kind, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings


def _model(name: str):
    @pytest.fixture(scope="session", name=name)
    def make(tmp_path_factory: pytest.TempPathFactory) -> Path:
        tiny = pytest.importorskip(
            "tests.builders.tiny", reason="needs torch and transformers", exc_type=ImportError
        )
        return getattr(tiny, name)(tmp_path_factory.mktemp("models") / name)

    return make


tiny_bert = _model("tiny_bert")
tiny_bert_mlm = _model("tiny_bert_mlm")
tiny_distilbert_mlm = _model("tiny_distilbert_mlm")
tiny_encoder = _model("tiny_encoder")
tiny_roberta = _model("tiny_roberta")
tiny_roberta_mlm = _model("tiny_roberta_mlm")
tiny_opt = _model("tiny_opt")
tiny_llama = _model("tiny_llama")
tiny_gpt2 = _model("tiny_gpt2")
tiny_vit = _model("tiny_vit")
tiny_resnet = _model("tiny_resnet")

settings.register_profile("shared-machine", deadline=None)  # timings here say nothing about the code
settings.load_profile("shared-machine")
