"""Files that are complete or absent, and folders that one process at a time uses."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from experiments.common import console

LOCK, LEASED, HOLDER = ".lock", ".lease", ".holder"
LEASE = 300.0  # seconds; all processes must agree
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # what flock says
GLANCE = 0.1  # seconds; longer than `is_locked` of another process holds the lock


def check_writable(folder: Path, key: str = "paths.outputs") -> None:
    """Check that a run can write into a folder, without leaving anything behind.

    Args:
        folder: The folder, which need not exist.
        key: The key that names it or a folder above it, for the message.

    Raises:
        OSError: If it cannot be written to.
    """
    existing = next(parent for parent in (folder.resolve() / "x").parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"{key}: cannot write to {existing}: {error.strerror}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Args:
        path: The file. Missing folders are made.

    Yields:
        A temporary path to write to. It replaces `path` if the block ends without an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of `atomic_write`; the folder's lock must be held."""
    for path in folder.glob(".*.????????"):  # as mkstemp names them
        if not path.name.startswith((LOCK, LEASED, HOLDER)):
            path.unlink(missing_ok=True)


@contextmanager
def run_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder during the block.

    The operating system releases the lock when a process ends, however it ends. On a file system
    without such locks it is a lease: a file that its holder touches, and that others may take when
    it has not been touched for LEASE seconds.

    Args:
        folder: The folder, made if it is missing.
        wait: Whether to wait for another process that holds the lock.

    Yields:
        Whether this process holds the lock; always True if `wait`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquired(folder, wait)
    if lock is None:
        yield False
        return
    holder = folder / HOLDER
    with suppress(OSError):  # only for others to read
        holder.write_text(f"{socket.gethostname()}, process {os.getpid()}", encoding="utf-8")
    try:
        yield True
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock. False if the lock file belongs to another user."""
    with suppress(FileNotFoundError):
        return time.time() - (folder / LEASED).stat().st_mtime < LEASE
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=GLANCE, fallback_to_soft=False):
            return False
    except Timeout:
        return True
    except OSError:  # no write access, which reading results does not need; or no such locks
        return False


def holder_of(folder: Path) -> str:
    """The host and process that hold the lock of a folder; "?" if they are not known."""
    try:
        return (folder / HOLDER).read_text(encoding="utf-8") or "?"
    except OSError:
        return "?"


def _acquired(folder: Path, wait: bool) -> BaseFileLock | None:
    """The lock or lease of a folder; None if another process holds it."""
    lock: BaseFileLock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=-1 if wait else GLANCE)
        return lock
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    _announce_leases()
    lease = folder / LEASED
    is_dead = lease.exists() and not is_locked(folder)  # taking it still means to watch it
    lock = SoftFileLease(lease, lease_duration=LEASE, on_compromise=_end)
    try:
        lock.acquire(timeout=-1 if wait or is_dead else GLANCE)
        return lock
    except Timeout:
        return None


@cache
def _announce_leases() -> None:
    console.info(
        "this file system has no locks (flock): runs are held by leases, which a dead process "
        f"loses after {LEASE:.0f} seconds"
    )


def _end(lost: object) -> None:
    """Another process has taken the lease, because this one slept or its disk did."""
    console.error("this process did not touch its lease in time, and another has taken the run")
    os.kill(os.getpid(), signal.SIGTERM)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
