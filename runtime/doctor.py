"""``zoedge doctor``: what a provider makes of a bundle here: where nodes run, what is live, how fine the loss is."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import msgspec
import numpy as np

from zoedge.bundle import Bundle
from zoedge.manifest import LOSS_FILE, Manifest
from zoedge.options import TuneOptions

from .asked import Options, asked
from .data import Data, InMemory, as_data
from .data.batches import MicroBatch
from .data.dataset import Dataset
from .data.made_up import made_up_rows
from .device import Array, Device, Places, open_device
from .job import Job, Splits, a_batch, make_job, read_rows
from .machine.threads import threads_for
from .machine.timing import best_seconds
from .noise.kernels import REFERENCE_COST
from .passes.engine import Engine
from .passes.frozen import frozen_where
from .passes.live import liveness
from .plan import Plan, make_plan
from .preflight.fineness import begin, fineness
from .run.opened import BundleLike, open_bundle
from .spaces.parameters import load_buffers


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider makes of a bundle.

    Attributes:
        provider, hardware, precision: what runs the passes, what its maker calls it ("" where unknown), and in
            which precision it computes.
        nodes: execution provider -> operator -> how many nodes of the loss graph it runs; None where onnxruntime,
            before 1.24, doesn't tell.
        trainables: how many tensors are trained.
        dead: those whose changes the loss doesn't follow.
        restored: whether the loss has its very bits again when all changes are taken back.
        loss_noise: standard deviation of a loss by rounding.
        least_eps: the smallest perturbation whose difference of losses stands above that: see ``fineness``.
        usual_eps, eps: what a run perturbs by, and what it should here.
        forward_seconds: a pass of ``rows`` rows.
        rows, width: of that pass; the width in tokens, 1 where there are none.
        restaged_bytes: what a step's rows bring to a device with memory of its own; 0 where passes read them where
            they lie.
        missing: package that isn't here -> what that costs.
    """

    provider: str
    hardware: str
    precision: str
    nodes: Places | None
    trainables: int
    dead: tuple[str, ...]
    restored: bool
    loss_noise: float
    least_eps: float
    usual_eps: float
    eps: float
    forward_seconds: float
    rows: int
    width: int
    restaged_bytes: int
    missing: dict[str, str]


def doctor(
    bundle: BundleLike,
    data: Data | InMemory | None = None,
    options: Options | None = None,
    *,
    sequence_length: int | None = None,
) -> Diagnosis:
    """Examine a bundle on a provider; it isn't changed.

    Args:
        bundle: the bundle, or its folder.
        data: rows, as for ``tune``; without them some are made up, on which a loss has other slopes.
        options: of a run, as for ``tune``: provider and precision among them.
        sequence_length: tokens of a row that is made up; the bundle's longest by default.

    Raises:
        InputError: the provider can't be used here, or can't run the bundle.
    """
    settings = asked(options).options
    opened = open_bundle(bundle)
    device = open_device(settings.provider, settings.threads, settings.precision)
    splits, plan = _rows(opened, device, data, settings, sequence_length)
    batches = a_batch(splits.train, opened.manifest, plan.options, device.grain)
    threads = threads_for(opened.manifest, settings.threads)
    nodes = _nodes(opened, device, threads)
    live = liveness(opened, device, batches[0], threads)
    job = make_job(opened, device, splits, plan)
    begin(job)
    seconds = best_seconds(lambda: list(job.measure.losses(batches[:1], (0,))))
    fine, usual = fineness(job), job.fold.eps
    return Diagnosis(
        provider=settings.provider,
        hardware=device.hardware(),
        precision=device.precision,
        nodes=nodes,
        trainables=len(opened.manifest.trainable),
        dead=live.dead,
        restored=live.restored,
        loss_noise=fine.noise,
        least_eps=fine.least_eps,
        usual_eps=usual,
        eps=fine.eps(usual),
        forward_seconds=seconds,
        rows=len(next(iter(batches[0].inputs.values()))),
        width=_width(batches[0]),
        restaged_bytes=_restaged(job, device),
        missing=_missing(),
    )


def _rows(
    bundle: Bundle,
    device: Device,
    data: Data | InMemory | None,
    options: TuneOptions,
    length: int | None,
) -> tuple[Splits, Plan]:
    if data is not None:
        return read_rows(bundle, device, as_data(data), options)
    manifest = bundle.manifest
    count = 2 * options.batch_size
    rows = _with_tokens(made_up_rows(manifest, count, length, bundle.folder), manifest)
    return Splits(rows, rows), make_plan(options, manifest, count, has_validation=True, device=device)


def _with_tokens(rows: Dataset, manifest: Manifest) -> Dataset:
    """Return rows of random tokens: where all are the same, attention says nothing of its matrices."""
    known = max((p.shape[0] for p in manifest.parameters if p.group == "embedding"), default=0)
    if manifest.text is None or known < 2:
        return rows
    rng = np.random.default_rng(0)

    def varied(array: Array) -> Array:
        return rng.integers(0, known, array.shape).astype(array.dtype)

    examples = [
        replace(e, inputs={n: varied(a) if n == "input_ids" else a for n, a in e.inputs.items()})
        for e in rows.examples
    ]
    return replace(rows, examples=examples)


def _nodes(bundle: Bundle, device: Device, threads: int) -> Places | None:
    """Return where the nodes of the loss graph run."""
    buffers, frozen = load_buffers(bundle, device), frozen_where(bundle, device, "auto")
    engine = Engine(bundle.path(LOSS_FILE), buffers, device=device, threads=threads, frozen=frozen)
    return engine.placed()


def _width(batch: MicroBatch) -> int:
    ids = batch.inputs.get("input_ids")
    return ids.shape[1] if ids is not None and ids.ndim > 1 else 1


def _restaged(job: Job, device: Device) -> int:
    if not device.own_memory:
        return 0
    return sum(array.nbytes for batch in job.measure.batch(0) for array in batch.given.values())


def _missing() -> dict[str, str]:
    costs = {
        "numba": REFERENCE_COST,
        "cupy": "--provider cuda is not possible",
    }
    return {name: cost for name, cost in costs.items() if importlib.util.find_spec(name) is None}
