"""What numba's cache is keyed by, beyond what it sees itself."""

from zoedge.runtime.machine.compiled import digest


def test_digest_follows_the_python_files_of_a_folder(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 2")
    before = digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert digest(tmp_path) == before
    (tmp_path / "b.py").write_text("y = 3")
    assert digest(tmp_path) != before
    assert 0 <= digest(tmp_path) < 2**63
