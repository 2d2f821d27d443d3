"""A GPU's memory over many steps; nothing else may use that GPU meanwhile."""

import pytest

from tests.gpu.jobs import open_job
from zoedge.runtime.run.steps import MeasuredHere

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ["opt-full", "opt-lora"])
def test_memory_stays_bounded(bundles, name, precision):
    job, device = open_job(bundles / name, "cuda", precision, method="fzoo", queries=3, batch_size=4)
    steps = MeasuredHere(job.measure)

    def take(count):
        for _ in range(count):
            job.fold.apply(steps.next(job.fold, 1e-6))
        device.wait()
        return device.held().device, len(device._passes.fixed)

    warm, shapes = take(100)
    held, more = take(140)
    # a shape that is new holds a session: handles, workspace and the memory of its pass
    assert held <= warm + (8 << 20) + (more - shapes) * (128 << 20)
