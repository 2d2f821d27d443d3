"""Bundles for tests of the data path: manifests over a folder that has a tokenizer, without any graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from zoedge.bundle import Bundle
from zoedge.manifest import Image, Manifest, Port, Source, Text


def bundle(
    folder: Path, task: str, inputs: tuple[Port, ...], targets: tuple[Port, ...], **settings: Any
) -> Bundle:
    manifest = Manifest(
        format=1,
        zoedge="0",
        task=task,
        source=Source(kind="torch", name="test"),
        inputs=inputs,
        targets=targets,
        model_inputs=inputs,
        model_outputs=(),
        parameters=(),
        **{"loss": "cross-entropy", "outputs": (), **settings},
    )
    return Bundle(folder, manifest, "0" * 64)


def tokens(*names: str, batch: int | str = "batch") -> tuple[Port, ...]:
    return tuple(Port(name=name, dtype="int64", shape=(batch, "sequence")) for name in names)


LABELS = (Port(name="labels", dtype="int64", shape=("batch",)),)
POSITIONS = Port(name="label_positions", dtype="int64", shape=("batch", "positions"))
TOKEN_LABELS = (Port(name="labels", dtype="int64", shape=("batch", "positions")),)
BERT = tokens("input_ids", "attention_mask", "token_type_ids")
CAUSAL = tokens("input_ids", "attention_mask")


def text_settings(folder: Path, max_length: int = 64, **settings: Any) -> Text:
    pad = AutoTokenizer.from_pretrained(folder).pad_token_id
    return Text(max_length=max_length, pad_id=pad or 0, **settings)


def classifier(folder: Path, labels: tuple[str, ...] = ("no", "maybe", "yes"), **settings: Any) -> Bundle:
    text = text_settings(folder, **{"token_types": True, **settings})
    return bundle(folder, "text-classification", BERT, LABELS, labels=labels, text=text)


def label_words(folder: Path, template: str, **settings: Any) -> Bundle:
    position = Port(name="label_positions", dtype="int64", shape=("batch", 1))
    text = text_settings(folder, template=template, label_word_ids=(10, 11), **settings)
    return bundle(
        folder, "text-classification", (*CAUSAL, position), LABELS, labels=("bad", "good"), text=text
    )


def generator(folder: Path, **settings: Any) -> Bundle:
    text = text_settings(folder, **settings)
    inputs = (*CAUSAL, POSITIONS)
    return bundle(folder, "text-generation", inputs, TOKEN_LABELS, text=text, loss="token-cross-entropy")


def masked(folder: Path, mask_id: int | None, **settings: Any) -> Bundle:
    text = text_settings(folder, mask_id=mask_id, **settings)
    inputs = (*CAUSAL, POSITIONS)
    return bundle(folder, "fill-mask", inputs, TOKEN_LABELS, text=text, loss="token-cross-entropy")


def images(image: Image, labels: tuple[str, ...] = ("cat", "dog", "hen")) -> Bundle:
    shape = ("batch", image.channels, image.height, image.width)
    inputs = (Port(name="pixel_values", dtype="float32", shape=shape),)
    return bundle(Path("bundle"), "image-classification", inputs, LABELS, labels=labels, image=image)


def arrays(
    shape: tuple[int | str, ...] = ("batch", 3),
    *,
    task: str = "classification",
    target: tuple[int | str, ...] = ("batch",),
    names: tuple[str, ...] = ("x0",),
    **settings: Any,
) -> Bundle:
    inputs = tuple(Port(name=name, dtype="float32", shape=shape) for name in names)
    dtype = (
        "int64"
        if task == "classification" and settings.get("loss", "cross-entropy") == "cross-entropy"
        else "float32"
    )
    targets = (Port(name="labels", dtype=dtype, shape=target),)
    return bundle(Path("bundle"), task, inputs, targets, **settings)
