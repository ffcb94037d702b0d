"""Spread processes over the GPUs of a machine."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

_held: list[tuple[int, FileLock]] = []  # the GPU of this process, until it ends


def least_used_gpu() -> int:
    """The index of the GPU that fewest of our processes use; this process keeps it.

    Every process holds a lock of its GPU, which the operating system releases when it ends.
    """
    if not _held:
        _held.append(_take())
    return _held[0][0]


def _take() -> tuple[int, FileLock]:
    folder = Path(tempfile.gettempdir(), f"loradrop-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    names = [_name(gpu) for gpu in range(torch.cuda.device_count())]
    for place in itertools.count():
        for gpu, name in enumerate(names):
            lock = FileLock(folder / f"{name}.{place}")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                return gpu, lock
    raise AssertionError  # count() has no end


def _name(gpu: int) -> str:
    """A name that does not depend on which GPUs a process sees."""
    return str(torch.cuda.get_device_properties(gpu).uuid)
