"""Jobs of the tests' bundles on a provider, and what they measure."""

import numpy as np

from tests.gpu.rows import rows_for
from zoedge.bundle import Bundle
from zoedge.options import make
from zoedge.runtime.data import as_data
from zoedge.runtime.data.batches import micro_batches
from zoedge.runtime.device import open_device
from zoedge.runtime.job import make_job, read_rows

SEED = 5


def open_job(folder, provider, precision="float32", **settings):
    """A job before its first step, with branches and a new head moved off zero: what they lead to counts, too."""
    precision = precision if provider == "cuda" else "auto"
    asked = {"method": "mezo", "batch_size": 8, "steps": 10, "lora_space": "factors", **settings}
    options = make({**asked, "provider": provider, "precision": precision})
    device = open_device(provider, 0, precision)
    bundle = Bundle.open(folder)
    splits, plan = read_rows(bundle, device, as_data(rows_for(folder.name)), options)
    job = make_job(bundle, device, splits, plan)
    if job.initial:
        job.fold.apply(job.initial())
    job.fold.rest()
    roughen(job, device)
    return job, device


def roughen(job, device):
    """Give zeros, as of a branch's second factor, other values: the same for every device."""
    for name, buffer in sorted(job.fold.parameters.buffers.items()):
        values = device.host(buffer)
        if not values.any():
            device.write(buffer, noise_of(name, values.shape) * np.float32(0.1))


def noise_of(name, shape):
    seed = [SEED, *name.encode()]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_of(job, device, rows):
    """The passes of some training rows."""
    examples = job.data.train.examples
    return micro_batches(examples, np.asarray(rows), manifest=job.bundle.manifest, grain=device.grain)


def losses(job, batch, points=1):
    """The losses of a batch at the buffers' present values, as a step measures them: recorded and replayed."""
    return np.array(list(job.measure.losses(batch, range(points))))


def free_losses(job, rows):
    """The losses of some rows by passes in whatever shape: never recorded."""
    results = job.measure.forward(np.asarray(rows), ["loss"])
    return np.concatenate([np.ravel(out["loss"]) for _, out in results])
