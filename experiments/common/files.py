"""Files that are complete or absent, and folders that one process at a time uses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
GLANCE = 0.1  # seconds; longer than `is_locked` of another process holds the lock


def check_writable(folder: Path) -> None:
    """Check that a run can write its result, without leaving anything behind.

    Args:
        folder: The run's folder, which need not exist.

    Raises:
        OSError: If it cannot be written to.
    """
    existing = next(parent for parent in (folder.resolve() / "x").parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"paths.outputs: cannot write to {existing}: {error.strerror}") from error


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
        if not path.name.startswith(LOCK):
            path.unlink(missing_ok=True)


@contextmanager
def run_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder during the block.

    The operating system releases the lock when a process ends, however it ends.

    Args:
        folder: The folder, made if it is missing.
        wait: Whether to wait for another process that holds the lock.

    Yields:
        Whether this process holds the lock; always True if `wait`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else GLANCE)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock. False if the lock file belongs to another user."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=GLANCE):
            return False
    except Timeout:
        return True
    except OSError:  # no write access, which reading results does not need
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
