"""Files that are complete or absent, also after a kill."""

from __future__ import annotations

import pytest

from experiments.common.files import atomic_write, remove_leftovers


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "result.json"
    with atomic_write(path) as file:
        file.write_text("old")
    with pytest.raises(SystemExit), atomic_write(path) as file:
        file.write_text("half")
        raise SystemExit(143)
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path):
    others = (".lock", ".lock.12345678", "result.json", ".notes", "checkpoint.ckpt")
    for name in (*others, ".checkpoint.ckpt.x1_b9k2a", ".result.json.abcdefgh"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
