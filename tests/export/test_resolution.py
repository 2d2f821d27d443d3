"""The rounding of a loss, measured: large for rounded activations, that of float32 without."""

import numpy as np
import pytest

from tests.builders.models import normal
from zoedge.export.resolution import EPS, measure_resolution


class Loss:
    """Stands for a session: the loss is a parabola in two weights, in steps."""

    def __init__(self, buffers, step):
        self.buffers, self.step = buffers, step

    def run(self, inputs, outputs):
        w = self.buffers["w"].astype(float)
        loss = 3.0 * w[0] + w[1] + w[0] * w[1]
        return {"loss": np.array([np.round(loss / self.step) * self.step]), "weight": np.ones(1)}


@pytest.mark.parametrize("step", [1e-9, 1e-4, 1.0])
def test_the_noise_is_the_rounding(tmp_path, monkeypatch, step):
    buffers = {"w": normal(2, 1)}
    monkeypatch.setattr("zoedge.export.resolution.map_trainable", lambda *a: buffers)
    monkeypatch.setattr("zoedge.export.resolution.draw_inputs", lambda *a: {})
    monkeypatch.setattr("zoedge.export.resolution.Session", lambda *a, **k: Loss(buffers, step))
    noise, least_eps = measure_resolution(tmp_path, _Source(), None)
    if step == 1.0:  # no point leaves its step: the most that can be told is that EPS is too small
        assert least_eps == pytest.approx(3.0 * EPS)
        return
    assert noise == pytest.approx(step / np.sqrt(12.0), rel=0.7, abs=3e-8)  # buffers are float32
    slope = np.sqrt(10.0)
    assert least_eps == pytest.approx(2.12 * noise / slope, rel=1.0)
    assert least_eps < EPS


class _Source:
    fresh_head = None
