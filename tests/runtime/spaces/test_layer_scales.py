"""MeZO's layer-wise variants: the scales, the published steps, and that no scaling is mezo."""

import numpy as np
import pytest

from tests.builders.devices import Counting
from tests.builders.folds import bits, buffers, dense, fold, run
from tests.builders.networks import deep, rows
from tests.zoedge.commands import error
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.methods.support import LayerScales
from zoedge.options import make
from zoedge.runtime.device import Cpu
from zoedge.runtime.evaluate import evaluate
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.replay import replay
from zoedge.runtime.spaces.layer_scales import sum_of_squares
from zoedge.runtime.spaces.support import Moved, Support
from zoedge.runtime.tune import tune

SHAPES = {
    "l.0.a.weight": (8, 6),
    "l.0.b.bias": (8,),
    "l.1.a.weight": (6, 8),
    "embed": (5, 4),
    "l.2.fresh": (7,),
}
WHERE = pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
SLOPE = {n: np.random.default_rng(4).standard_normal(shape) for n, shape in SHAPES.items()}


def values():
    arrays = buffers(dense(SHAPES))
    arrays["l.1.a.weight"] *= 2
    arrays["embed"] *= 0.5
    arrays["l.2.fresh"] *= 0
    return arrays


def sizes(arrays):
    """d of each tensor, by hand."""
    layers = {
        "l.0": ["l.0.a.weight", "l.0.b.bias"],
        "l.1": ["l.1.a.weight"],
        "embed": ["embed"],
        "l.2": ["l.2.fresh"],
    }
    flat = {
        layer: np.concatenate([arrays[n].ravel() for n in names]).astype(np.float64)
        for layer, names in layers.items()
    }
    whole = np.sqrt(np.mean(np.concatenate(list(flat.values())) ** 2))
    d = {layer: np.sqrt(np.mean(v**2)) / whole or 1.0 for layer, v in flat.items()}
    return {n: d[layer] for layer, names in layers.items() for n in names}


def line(arrays):
    return sum(float((SLOPE[n] * a.astype(np.float64)).sum()) for n, a in arrays.items())


@pytest.mark.parametrize("unbiased", [True, False])
def test_scales_are_root_mean_squares_by_layer(unbiased):
    arrays = values()
    support = Support((LayerScales(unbiased),), Moved(tuple(SHAPES), set(SHAPES), arrays.get), 0)
    parts = support.at(3, None)
    for name, d in sizes(arrays).items():
        assert parts[name].reach == pytest.approx(1 / d)
        assert parts[name].stride == pytest.approx(d if unbiased else 1.0)
    assert parts["l.2.fresh"].reach == 1.0  # zeros have no size
    assert parts["l.1.a.weight"].reach < 1 < parts["embed"].reach


@WHERE
@pytest.mark.parametrize("device", [Cpu, Counting])
@pytest.mark.parametrize("variant", ["variance", "expectation"])
def test_it_is_the_published_step(placement, device, variant):
    own, m, eps, lr = device(), dense(SHAPES), 1e-2, 1e-3
    held = {n: own.own(a) for n, a in values().items()}
    wanted = {n: a.astype(np.float64) for n, a in values().items()}
    d = sizes(values())
    f = fold(m, held, placement=placement, eps=eps, layer_scaling=variant, device=own)

    def losses(points):
        for _ in points:
            f.parameters.settle()
            yield line({n: own.host(b) for n, b in held.items()})

    for step in range(5):
        z = {
            n: directions(Stream(0, tensor_id(n), step, 0), a.shape).astype(np.float64)
            for n, a in wanted.items()
        }
        plus, minus = (line({n: a + s * eps * z[n] / d[n] for n, a in wanted.items()}) for s in (1, -1))
        g = (plus - minus) / (2 * eps)
        for n in wanted:
            wanted[n] -= lr * g * z[n] * (d[n] if variant == "variance" else 1.0)
        f.apply(f.measure(lr, losses))
    f.rest()
    for name, value in wanted.items():
        np.testing.assert_allclose(own.host(held[name]), value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("variant", "power"), [("variance", 0), ("expectation", -1)])
def test_what_is_expected_is_the_gradient_or_the_gradient_over_the_scales(variant, power):
    m, start = dense(SHAPES), values()
    d = sizes(start)
    direction = np.concatenate([(SLOPE[n] * d[n] ** power).ravel() for n in SHAPES])
    arrays = {n: a.copy() for n, a in start.items()}
    f = fold(m, arrays, placement="out-of-place", eps=1e-2, layer_scaling=variant)
    fresh, total = {n: np.array(v) for n, v in f.snapshot().items()}, 0.0
    for _ in range(4000):
        run(f, line, 1, 1e-3)
        total += np.concatenate([(start[n].astype(np.float64) - arrays[n]).ravel() for n in SHAPES])
        f.restore(fresh | {"step": np.array(f.step)})
    assert total @ direction / np.linalg.norm(total) / np.linalg.norm(direction) > 0.95


@WHERE
def test_layers_of_one_size_are_not_scaled(placement):
    m = dense({"l.0.w": (16,), "l.1.w": (16,)})
    found = []
    for variant in ("no", "variance", "expectation"):
        arrays = {
            n: np.where(np.arange(16) % 2, np.float32(2.0), np.float32(-2.0)) for n in ("l.0.w", "l.1.w")
        }
        loss = {n: np.arange(16) for n in arrays}
        run(
            fold(m, arrays, placement=placement, layer_scaling=variant),
            lambda a, loss=loss: sum(float((loss[n] * v.astype(np.float64)).sum()) for n, v in a.items()),
            4,
            1e-3,
        )
        found.append(bits(arrays))
    assert found[0] == found[1] == found[2]


def test_zeros_alone_are_refused_and_a_run_resumes_and_replays(tmp_path):
    zeros = dense({"l.0.bias": (9,)})
    with pytest.raises(InputError, match="--layer-scaling goes by the size of weights"):
        fold(zeros, {"l.0.bias": np.zeros(9, np.float32)}, layer_scaling="variance")
    deep(tmp_path / "deep.onnx")
    data = tmp_path / "data.jsonl"
    rows(data, 120)
    for train in ("full", "lora"):
        to_bundle(
            tmp_path / "deep.onnx", tmp_path / train, task="classification", train=(train,), lora_rank=4
        )
    given = {"method": "mezo", "layer_scaling": "variance", "lr": 2e-3, "batch_size": 16, "eval_every": 0}
    given |= {"lr_schedule": "constant"}
    tune(tmp_path / "full", data, tmp_path / "whole", make(given | {"steps": 80}))
    tune(tmp_path / "full", data, tmp_path / "parts", make(given | {"steps": 33}))
    tune(tmp_path / "full", data, tmp_path / "parts", make({"method": "mezo", "steps": 80}), resume=True)
    whole, parts = (tmp_path / run / "last" / "tensors.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert replay(tmp_path / "whole", tmp_path / "replayed").path.read_bytes() == whole.read_bytes()
    assert evaluate(tmp_path / "whole", data)["loss"] < evaluate(tmp_path / "full", data)["loss"]
    given |= {"layer_norms": "gradients", "layer_norms_every": 20}
    for train in ("full", "lora"):
        for name, steps in (("a", 60), ("b", 25)):
            tune(tmp_path / train, data, tmp_path / f"{train}-{name}", make(given | {"steps": steps}))
        tune(
            tmp_path / train,
            data,
            tmp_path / f"{train}-b",
            make({"method": "mezo", "steps": 60}),
            resume=True,
        )
        one, other = (tmp_path / f"{train}-{name}" / "last" / "tensors.safetensors" for name in "ab")
        assert one.read_bytes() == other.read_bytes()
        replayed = replay(tmp_path / f"{train}-a", tmp_path / f"{train}-replayed").path
        assert replayed.read_bytes() == one.read_bytes()
    told = error(
        "tune", tmp_path / "lora", "-d", data, "-o", tmp_path / "no", "--method", "mezo",
        "--layer-scaling", "variance",
    )  # fmt: skip
    assert told == (
        "Error: --layer-scaling goes by the size of weights, and all that moves begins as zeros: use --layer-norms "
        "gradients, or leave it out\n"
    )


@WHERE
def test_gradients_are_looked_at_a_layer_a_step_and_nothing_moves(placement):
    """The sizes are |g| of the looks, over their root mean square; they are taken anew every 7 steps."""
    arrays, layers = values(), ["embed", "l.0", "l.1", "l.2"]
    f = fold(
        dense(SHAPES), arrays, placement=placement, layer_scaling="variance", layer_norms="gradients",
        layer_norms_every=3, weight_decay=0.5, eps=1e-2,
    )  # fmt: skip
    seen = {}
    for step in range(18):
        before = {n: a.copy() for n, a in arrays.items()}
        (record,) = run(f, line, 1, 1e-3)
        if step % 7 < 4:
            for name in arrays:
                np.testing.assert_allclose(arrays[name], before[name], atol=1e-6)
            layer = layers[step % 7]
            own = [n for n in SHAPES if n.startswith(layer)]
            z = {n: directions(Stream(0, tensor_id(n), step, 0), SHAPES[n]).astype(np.float64) for n in own}
            seen[layer] = abs(sum(float((SLOPE[n] * z[n]).sum()) for n in own))
            assert abs(np.subtract(*record.answers)) / 2e-2 == pytest.approx(seen[layer], rel=1e-3)
        else:
            mean = np.sqrt(np.mean(np.square(list(seen.values()))))
            for name, part in f.parameters._support.at(step, None).items():
                size = next(x for layer, x in seen.items() if name.startswith(layer)) / mean
                assert (part.reach, part.stride) == pytest.approx((1 / size, size), rel=1e-3)
            assert all(not np.array_equal(arrays[n], before[n]) for n in arrays)


@WHERE
@pytest.mark.parametrize("at", [2, 4, 5, 8])
def test_what_was_seen_goes_into_snapshots_and_follows_from_the_journal(placement, at):
    m = dense(SHAPES)
    settings = {"layer_scaling": "variance", "layer_norms": "gradients", "layer_norms_every": 3}
    whole, parts, again, replayed = (values() for _ in range(4))
    records = run(fold(m, whole, placement=placement, **settings), line, 12, 1e-3)
    first = fold(m, parts, placement=placement, **settings)
    run(first, line, at, 1e-3)
    second = fold(m, again, placement=placement, **settings)
    second.restore({n: np.array(v) for n, v in first.snapshot().items()})
    run(second, line, 12 - at, 1e-3)
    third = fold(m, replayed, placement=placement, **settings)
    third.replay(records)
    third.rest()
    assert bits(whole) == bits(again) == bits(replayed)


def test_a_look_that_is_skipped_leaves_a_layer_unscaled():
    arrays = values()
    f = fold(dense(SHAPES), arrays, layer_scaling="expectation", layer_norms="gradients")
    for step in range(5):
        f.apply(
            f.measure(
                1e-3, lambda points, step=step: [float("nan") if step == 1 else 1.0 + p for p in points]
            )
        )
    parts = f.parameters._support.at(5, None)
    assert parts["l.0.a.weight"].reach == 1.0
    assert f.parameters._support.at(900, None).keys() == SHAPES.keys()  # once is enough by default


def test_sums_are_those_of_one_number_after_the_other():
    x = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    total = 0.0
    for value in x[: 1 << 16].astype(np.float64):
        total += value * value
    assert sum_of_squares(x[: 1 << 16]) == total
    assert sum_of_squares(x) == pytest.approx(float((x.astype(np.float64) ** 2).sum()))
