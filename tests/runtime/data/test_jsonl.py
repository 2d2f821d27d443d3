from __future__ import annotations

import json

import pytest

from zoedge.errors import DataError
from zoedge.runtime.data.jsonl import read_jsonl


def test_lines_and_their_numbers(tmp_path):
    path = tmp_path / "data.jsonl"
    objects = [{"text": "é 😀 \u2028", "n": [1, None]}, {}, {"label": 1.5}]
    path.write_text(
        "\n\n".join(json.dumps(o, ensure_ascii=False) for o in objects) + "\r\n", encoding="utf-8"
    )
    records = read_jsonl(path)
    assert [r.fields for r in records] == objects
    assert [r.where for r in records] == [f"{path}:{n}" for n in (1, 3, 5)]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            b'{"a": 1}\n{"a": }\n',
            r"data\.jsonl:2 is not JSON \(Expecting value at column 7\): write one whole",
        ),
        (b'{"a": 1} {"a": 2}\n', r"data\.jsonl:1 is not JSON \(Extra data at column 10\)"),
        (b"[1, 2]\n", r"data\.jsonl:1 holds a list: write one object in braces"),
        (b"3\n", r"data\.jsonl:1 holds 3"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', r"data\.jsonl:2 is not UTF-8 \(byte 0xe9 at position 11\)"),
        (b"[" * 100_000, r"data\.jsonl:1 is nested too deeply"),
    ],
)
def test_malformed(tmp_path, raw, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_jsonl(path)


def test_unreadable(tmp_path):
    with pytest.raises(DataError, match="can't be read: "):
        read_jsonl(tmp_path)
