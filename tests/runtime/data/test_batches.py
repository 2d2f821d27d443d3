from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders.bundles import LABELS, POSITIONS, TOKEN_LABELS, arrays, bundle, tokens
from zoedge.errors import DataError, InputError
from zoedge.manifest import Port, Text
from zoedge.runtime.data.batches import batch_indices, epoch_order, gather, micro_batches, steps_in
from zoedge.runtime.data.example import Example
from zoedge.runtime.device import Grain

SIZES = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))
TEXT = Text(max_length=62, pad_id=9)


def generation(batch: int | str = "batch"):
    inputs = (*tokens("input_ids", "attention_mask", batch=batch), POSITIONS)
    return bundle(
        Path(), "text-generation", inputs, TOKEN_LABELS, text=TEXT, loss="token-cross-entropy"
    ).manifest


def example(length: int, answers: int, value: int) -> Example:
    ids = np.full(length, value, np.int64)
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "label_positions": np.arange(length - answers, length),
    }
    return Example(inputs, {"labels": np.full(answers, value)}, length)


# -- which rows ---------------------------------------------------------------------------------------------


@given(SIZES, st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_epochs_follow_each_other_and_each_uses_every_row_once(sizes, seed, epoch):
    size, batch_size = sizes
    steps = steps_in(epoch + 1, size, batch_size)
    stream = np.concatenate([batch_indices(seed, step, size, batch_size) for step in range(steps)])
    assert len(stream) >= (epoch + 1) * size
    for e in range(epoch + 1):
        assert sorted(stream[e * size : (e + 1) * size]) == list(range(size))


@given(SIZES, st.integers(0, 2**64 - 1), st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_a_pure_function_of_its_arguments(sizes, seed, steps):
    size, batch_size = sizes
    forward = {step: batch_indices(seed, step, size, batch_size).tolist() for step in steps}
    epoch_order.cache_clear()
    assert {step: batch_indices(seed, step, size, batch_size).tolist() for step in reversed(steps)} == forward


@pytest.mark.parametrize("seed", [0, 42])
def test_every_seed_has_its_order(seed):
    assert batch_indices(seed, 0, 100, 10).tolist() != batch_indices(seed + 1, 0, 100, 10).tolist()
    assert epoch_order(seed, 0, 100).tolist() != epoch_order(seed, 1, 100).tolist()


def test_the_cached_order_can_not_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 5)[0] = 1


def test_a_batch_larger_than_the_data():
    with pytest.raises(
        InputError, match="--batch-size 64 is larger than the data of 10 rows: use at most 10"
    ):
        batch_indices(0, 0, 10, 64)


def test_steps_in():
    assert [steps_in(e, 10, 4) for e in (0.1, 1, 2, 2.5)] == [1, 3, 5, 7]


# -- micro-batches ------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 62), min_size=1, max_size=20),
    st.none() | st.integers(1, 8),
    st.sampled_from(["batch", 1, 4]),
)
def test_results_come_back_in_order_and_padding_is_told(lengths, max_rows, size):
    examples = [example(n, 1 + n // 3, i) for i, n in enumerate(lengths)]
    indices = np.arange(len(examples))[::-1]
    batches = micro_batches(examples, indices, manifest=generation(size), max_rows=max_rows)
    results = []
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert np.all(ids[mask == 0] == TEXT.pad_id)
        assert all(a.flags.c_contiguous for a in (*batch.inputs.values(), *batch.targets.values()))
        assert len(ids) == (size if isinstance(size, int) else batch.valid)
        results.append((batch, {"first": ids[:, 0], "size": mask.sum(axis=1).astype(np.float32)}))
    outputs, targets = gather(results)
    assert outputs["first"].tolist() == indices.tolist()
    assert outputs["size"].tolist() == [lengths[i] for i in indices]
    assert [row[row != -100].tolist() for row in targets["labels"]] == [
        [i] * (1 + lengths[i] // 3) for i in indices
    ]


def test_worked_example():
    examples = [example(5, 2, 1), example(3, 1, 2)]
    (batch,) = micro_batches(examples, [0, 1], manifest=generation())
    assert batch.rows.tolist() == [1, 0]
    assert batch.inputs["input_ids"].tolist() == [[2, 2, 2, 9, 9, 9, 9, 9], [1, 1, 1, 1, 1, 9, 9, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch.inputs["label_positions"].tolist() == [[2, 0, 0, 0], [3, 4, 0, 0]]
    assert batch.targets["labels"].tolist() == [[2, -100, -100, -100], [1, 1, -100, -100]]


def test_padding_stays_within_the_model():
    (batch,) = micro_batches([example(61, 1, 1)], [0], manifest=generation())
    assert batch.inputs["input_ids"].shape == (1, 62)


def test_fixed_batch_repeats_the_last_example():
    (batch,) = micro_batches([example(4, 1, 7), example(4, 1, 8)], [0, 1], manifest=generation(4))
    assert batch.valid == 2
    assert batch.inputs["input_ids"][:, 0].tolist() == [7, 8, 8, 8]


def test_a_device_with_a_coarser_grain_gets_fuller_shapes():
    examples = [example(4, 1, 7), example(9, 1, 8), example(9, 1, 6)]
    (batch,) = micro_batches(examples, [0, 1, 2], manifest=generation(), grain=Grain(rows=4, tokens=16))
    assert batch.valid == 3
    assert batch.inputs["input_ids"].shape == (4, 16)


def test_fixed_axes():
    ports = (Port(name="input_ids", dtype="int32", shape=("batch", 6)),)
    manifest = bundle(Path(), "text-classification", ports, LABELS, text=TEXT).manifest
    row = Example({"input_ids": np.arange(4)}, {"labels": np.array(1)}, 4)
    (batch,) = micro_batches([row], [0], manifest=manifest)
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2, 3, 9, 9]]
    assert batch.inputs["input_ids"].dtype == np.int32
    assert batch.targets["labels"].tolist() == [1]
    long = Example({"input_ids": np.arange(7)}, {"labels": np.array(1)}, 7)
    with pytest.raises(DataError, match="a row of 7 does not fit input_ids, which the graph fixes at 6"):
        micro_batches([long], [0], manifest=manifest)


def test_rows_of_other_shapes_are_never_padded():
    manifest = arrays(("batch", "time")).manifest
    rows = [Example({"x0": np.full(n, n, np.float32)}, {"labels": np.array(0)}) for n in (3, 5, 3, 5, 3)]
    batches = micro_batches(rows, range(5), manifest=manifest, max_rows=2)
    assert sorted(b.inputs["x0"].shape for b in batches) == [(1, 3), (2, 3), (2, 5)]
    assert sorted(row for b in batches for row in b.rows) == [0, 1, 2, 3, 4]
    assert all(np.all(b.inputs["x0"] == b.inputs["x0"].shape[1]) for b in batches)


def test_gather_drops_padding_rows_and_fills_up_with_what_metrics_ignore():
    examples = [example(40, 9, 1), example(4, 1, 2), example(4, 1, 3)]
    short, long = micro_batches(examples, [0, 1, 2], manifest=generation(2))
    assert (short.rows.tolist(), long.rows.tolist()) == ([1, 2], [0])
    results = [
        (b, {"predictions": b.targets["labels"], "x": np.full((2, w), w)}) for b, w in ((short, 1), (long, 2))
    ]
    outputs, targets = gather(results)
    assert targets["labels"].tolist() == [[1] * 9 + [-100] * 3, [2] + [-100] * 11, [3] + [-100] * 11]
    np.testing.assert_array_equal(outputs["predictions"], targets["labels"])
    assert outputs["x"].tolist() == [[2, 2], [1, -100], [1, -100]]
    assert gather([(long, {"x": np.ones((2, 3), np.float32)})])[0]["x"].tolist() == [[1, 1, 1]]
