"""What a run shows: how far it is and how long it takes still."""

import io

import pytest
from rich.console import Console

from zoedge.runtime.run.progress import Bar, Extent, Lines

HEADER = {"bundle": "b"}


def row(step, elapsed):
    return {"step": step, "loss": 0.5, "lr": 0.1, "projected_gradient": 1.0, "step_seconds": 1.0,
            "peak_rss_bytes": 10**6, "elapsed_seconds": elapsed}  # fmt: skip


@pytest.mark.parametrize(
    ("extent", "share"),
    [(Extent(40), 0.25), (Extent(None, 50.0), 0.6), (Extent(40, 50.0), 0.6), (Extent(15, 50.0), 10 / 15)],
)
def test_the_share_that_is_done_is_by_steps_or_by_time(extent, share):
    assert extent.share(10, 30.0) == share


@pytest.mark.parametrize(
    ("extent", "steps"), [(Extent(None, 600.0), "3"), (Extent(600), "3/600"), (Extent(900, 600.0), "3/900")]
)
def test_the_bar_tells_the_time_that_is_left(extent, steps):
    now = [0.0]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, get_time=lambda: now[0], _environ={})
    bar = Bar(console)
    bar.start(HEADER, extent, 0)
    for step in (1, 2, 3):
        now[0] = float(step)
        bar.step(row(step, now[0]), report=False)
    bar.close()
    last = next(line for line in reversed(out.getvalue().splitlines()) if "tune" in line)
    assert "0:09:57" in last  # 597 of 600 seconds, or of 600 steps of a second
    assert f" {steps} " in last


def test_lines_show_the_steps():
    out = io.StringIO()
    lines = Lines(out)
    lines.start(HEADER, Extent(5), 0)
    lines.step(row(2, 1.0), report=True)
    assert out.getvalue().startswith("bundle  b\nstep 2/5  loss 0.5000")
