"""Shapes of tensor-train adapters: those of the papers, and what follows for other widths."""

import math

import pytest

from zoedge.adapters.tensor_train import CoreMap, TensorTrainBranch, TensorTrainOptions, core_sizes
from zoedge.manifest import Branch

PUBLISHED = {
    (768, 64): (8, 8, 12, 8, 8),
    (1024, 64): (4, 8, 8, 8, 8, 4),
    (4096, 64): (16, 16, 16, 4, 4, 4),
}


def test_the_defaults_are_the_papers():
    options = TensorTrainOptions()
    assert (options.tt_rank, options.tt_bottleneck, options.tt_activation) == (5, 64, "relu")


@pytest.mark.parametrize("widths", PUBLISHED)
def test_published_widths_have_the_published_sizes(widths):
    assert core_sizes(*widths) == PUBLISHED[widths]


@pytest.mark.parametrize(
    ("wide", "narrow", "sizes"),
    [
        (384, 64, (6, 8, 8, 8, 8)),
        (3072, 64, (12, 16, 16, 8, 8)),
        (11008, 64, (4, 8, 8, 43, 8, 8)),
        (32, 8, (4, 8, 8)),
        (1, 5, (1, 5)),
        (17, 1, (17, 1)),
    ],
)
def test_other_widths_have_balanced_factors(wide, narrow, sizes):
    assert core_sizes(wide, narrow) == sizes


@pytest.mark.parametrize("wide", [1, 2, 7, 24, 312, 768, 1000, 1024, 4096, 5120, 50257])
@pytest.mark.parametrize("narrow", [1, 8, 64])
@pytest.mark.parametrize("down", [True, False])
def test_cores_have_the_elements_of_the_map_and_split_it_where_its_rows_end(wide, narrow, down):
    sizes = core_sizes(wide, narrow) if down else core_sizes(wide, narrow)[::-1]
    rows, columns = (wide, narrow) if down else (narrow, wide)
    cores = CoreMap(sizes, 5, rows, columns)
    assert math.prod(sizes) == wide * narrow
    held = [a * b for a, b in cores.shapes]
    assert held == [
        left * k * right for left, k, right in zip(cores.ranks[:-1], sizes, cores.ranks[1:], strict=True)
    ]
    assert math.prod(sizes[: cores.split + 1]) == rows * cores.shared
    assert cores.split < len(sizes) - 1  # something is left to multiply from the right


@pytest.mark.parametrize(("wide", "count"), [(768, 780), (4096, 1100)])
def test_a_map_has_the_published_number_of_parameters(wide, count):
    """METHODS: about 1.1k a map at rank 5, against 262k."""
    assert sum(a * b for a, b in CoreMap(core_sizes(wide, 64), 5, wide, 64).shapes) == count


def test_cores_are_stored_as_the_matrices_that_are_multiplied():
    down = CoreMap((16, 16, 16, 4, 4, 4), 5, 4096, 64)
    assert down.shapes == ((16, 5), (5, 80), (5, 80), (20, 5), (20, 5), (5, 4))
    assert (down.split, down.shared) == (2, 1)
    across = CoreMap(
        (4, 8, 8, 8, 8, 4), 5, 1024, 64
    )  # the fourth core has the rows' last 4 and the columns' first 2
    assert across.shapes == ((4, 5), (5, 40), (5, 40), (5, 40), (40, 5), (5, 4))
    assert (across.split, across.shared) == (3, 2)


def test_a_branch_reads_what_its_layer_makes_where_it_has_an_activation():
    settings = {"rank": 3, "bottleneck": 8, "relu": 1.0}
    branch = Branch(
        kind="tensor-train", module="m", weight="m.weight", transposed=False, shape=(32, 48), tensors={}
    )
    relu = TensorTrainBranch.of(Branch(**{**_fields(branch), "settings": settings}))
    none = TensorTrainBranch.of(Branch(**{**_fields(branch), "settings": settings | {"relu": 0.0}}))
    assert (relu.down.rows, relu.down.columns, relu.up.rows, relu.up.columns) == (32, 8, 8, 32)
    assert (none.down.rows, none.up.columns) == (48, 32)
    assert list(relu.shapes) == ["down.0", "down.1", "down.2", "down.bias", "up.0", "up.1", "up.2", "up.bias"]
    assert (relu.shapes["down.bias"], relu.shapes["up.bias"]) == ((8,), (32,))
    assert not any("bias" in part for part in none.shapes)


def _fields(branch):
    return {name: getattr(branch, name) for name in branch.__struct_fields__}
