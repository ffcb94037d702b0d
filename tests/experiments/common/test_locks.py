"""Folders that one process at a time uses, on file systems with locks and without."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments.common import files
from experiments.common.files import LEASED, holder_of, is_locked, run_lock

CODES = ("ENOSYS", "ENOLCK", "EOPNOTSUPP")


@pytest.fixture
def no_flock(monkeypatch, request):
    """A file system that answers flock with this error; leases of half a second."""
    code = getattr(errno, getattr(request, "param", CODES[0]))

    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(files, "LEASE", 0.5)
    files._announce_leases.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("no_flock", CODES, indirect=True)
def test_without_flock_a_lease_is_held_and_said_once(no_flock, tmp_path, capsys):
    for _ in range(2):
        with run_lock(tmp_path) as own:
            assert own and is_locked(tmp_path)
            assert holder_of(tmp_path) == f"{socket.gethostname()}, process {os.getpid()}"
            with run_lock(tmp_path, wait=False) as second:
                assert not second
            time.sleep(0.6)  # longer than an untouched lease lasts
            assert is_locked(tmp_path)
        assert not is_locked(tmp_path) and holder_of(tmp_path) == "?"
    assert capsys.readouterr().out.count("no locks (flock)") == 1


def test_a_dead_process_of_another_host_loses_its_lease(no_flock, tmp_path):
    lease = tmp_path / LEASED
    dying = f"""
import filelock, os
lock = filelock.SoftFileLease({str(lease)!r}, lease_duration=0.5)
lock.acquire()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", dying]).returncode == 9
    lease.write_text(lease.read_text().replace(socket.gethostname(), "elsewhere"))
    with run_lock(tmp_path, wait=False) as own:
        assert not own  # it might still be alive
    os.utime(lease, (0, 0))
    assert not is_locked(tmp_path)
    with run_lock(tmp_path, wait=False) as own:
        assert own


def test_a_process_that_has_lost_its_lease_ends(no_flock, tmp_path, capsys):
    ended = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    try:
        with run_lock(tmp_path):
            (tmp_path / LEASED).unlink()  # as another would, that takes it
            while not ended:
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "another has taken the run" in capsys.readouterr().out


def test_an_error_that_says_something_else_is_raised(no_flock, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match="the disk is broken"), run_lock(tmp_path):
        pass
