"""Sessions are opened so that sums are exact, or not at all."""

import pytest

from zoedge import sessions
from zoedge.errors import InputError


def opening(fails, tried):
    """Something that opens sessions: it fails with some numbers of entries."""

    def open_session(entries, silent):
        tried.append((len(entries), silent))
        if len(entries) in fails:
            raise RuntimeError(f"fails with {len(entries)}")
        return len(entries)

    return open_session


@pytest.mark.parametrize(
    ("clips", "fails", "found", "tried"),
    [
        (False, (1, 2), 0, [(0, False)]),
        (True, (), 1, [(1, True)]),
        (True, (1,), 2, [(1, True), (2, True)]),
    ],
)
def test_what_is_opened(monkeypatch, clips, fails, found, tried):
    monkeypatch.setattr(sessions, "clips_sums", lambda: clips)
    made = []
    assert sessions.open_exact(opening(fails, made), "m.onnx") == found
    assert made == tried


def test_clipping_that_nothing_helps_against_is_refused(monkeypatch):
    monkeypatch.setattr(sessions, "clips_sums", lambda: True)
    with pytest.raises(InputError, match=r"m\.onnx multiplies signed 8-bit numbers.*reduce_range=True"):
        sessions.open_exact(opening((1, 2), []), "m.onnx")


def test_a_model_that_cannot_be_run_at_all_says_why(monkeypatch):
    monkeypatch.setattr(sessions, "clips_sums", lambda: True)
    with pytest.raises(RuntimeError, match="fails with 0"):
        sessions.open_exact(opening((0, 1, 2), []), "m.onnx")
