"""`claim_run`: a run is finished, taken, or yours."""

from __future__ import annotations

import fcntl
import os
import threading
import time

import pytest

from experiments.common.files import LOCK
from experiments.results import run_folder
from experiments.runner import claim
from experiments.runner.claim import Owner, claim_run

FINISHED = "the result"


@pytest.fixture
def stored(monkeypatch):
    """Results by id, in place of files."""
    found: dict[str, dict] = {}
    monkeypatch.setattr(claim.results, "finished_result", lambda outputs, id: found.get(id))
    return found


def test_a_finished_run_is_answered_without_a_lock(tmp_path, stored):
    stored["a"] = FINISHED
    with claim_run(tmp_path / "outputs", "a") as answer:
        assert answer.owner is Owner.NOBODY and answer.result is FINISHED
    assert not (tmp_path / "outputs").exists()


def test_a_run_is_one_process_s_at_a_time(tmp_path, stored):
    with claim_run(tmp_path, "a") as first:
        with claim_run(tmp_path, "a", wait=False) as second:
            assert (first.owner, second.owner) == (Owner.YOU, Owner.OTHER)
        with claim_run(tmp_path, "b", wait=False) as other:
            assert other.owner is Owner.YOU
    with claim_run(tmp_path, "a", wait=False) as again:
        assert again.owner is Owner.YOU


def test_who_waits_gets_the_other_s_result(tmp_path, stored, capsys):
    held, answers = threading.Event(), []

    def carry_out():
        with claim_run(tmp_path, "a"):
            held.set()
            time.sleep(0.5)
            stored["a"] = FINISHED

    thread = threading.Thread(target=carry_out)
    thread.start()
    held.wait()
    with claim_run(tmp_path, "a") as answer:
        answers.append(answer)
    thread.join()
    assert answers[0].owner is Owner.NOBODY and answers[0].result is FINISHED
    assert f"process {os.getpid()}: waiting for it" in capsys.readouterr().out


def test_a_block_that_fails_before_it_writes_leaves_nothing_behind(tmp_path, stored):
    outputs = tmp_path / "new" / "outputs"
    with pytest.raises(ValueError, match="no such data"), claim_run(outputs, "a"):
        raise ValueError("no such data")
    assert list(tmp_path.iterdir()) == []


def test_what_a_failing_block_has_written_stays(tmp_path, stored):
    folder = tmp_path / "outputs" / "runs" / "a"
    with pytest.raises(ValueError, match="later"), claim_run(tmp_path / "outputs", "a"):
        (folder / "checkpoint.ckpt").write_text("")
        raise ValueError("later")
    assert (folder / "checkpoint.ckpt").exists()


def test_a_lock_that_was_removed_while_it_was_taken_is_taken_anew(tmp_path, stored, monkeypatch):
    path = run_folder(tmp_path, "a") / LOCK
    flock, removed = fcntl.flock, []

    def after_removal(fd, operation):
        if not removed:
            removed.append(path.unlink())  # by another process, whose block has failed
        return flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", after_removal)
    with claim_run(tmp_path, "a") as first, claim_run(tmp_path, "a", wait=False) as second:
        assert removed and (first.owner, second.owner) == (Owner.YOU, Owner.OTHER)


def test_a_failing_block_leaves_the_lock_that_another_process_has_taken_since(
    tmp_path, stored, monkeypatch
):
    remove, others = claim._remove_unused, []

    def and_another_takes_it(folder, made):
        remove(folder, made)
        folder.mkdir(parents=True)
        others.append((folder / LOCK).open("w"))
        fcntl.flock(others[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(claim, "_remove_unused", and_another_takes_it)
    with pytest.raises(ValueError, match="no such data"), claim_run(tmp_path / "new", "a"):
        raise ValueError("no such data")
    with others[0], claim_run(tmp_path / "new", "a", wait=False) as answer:
        assert answer.owner is Owner.OTHER
