"""Files that are whole or not there, and folders that one process at a time works in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
GLANCE = 0.1  # seconds: longer than others take to see whether a folder is run_lock


def check_writable(folder: Path) -> None:
    """OSError where the run could not write its result; leaves nothing behind."""
    existing = next(parent for parent in (folder.resolve() / "x").parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"paths.outputs: cannot write to {existing}: {error.strerror}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes path's place when the block ends without an error."""
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


@contextmanager
def run_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """The folder is this process's own for as long as the block lasts; False where it is not, and `wait` is not asked for.

    The operating system gives the folder back when a process ends, however it ends.
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
    """Does a process work in the folder? Not that we know, where it is another user's."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=GLANCE):
            return False
    except Timeout:
        return True
    except OSError:  # the lock cannot be opened: to look at results needs no right to write
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
