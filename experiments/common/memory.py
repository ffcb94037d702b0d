"""The peak memory of this process, and of a part of its life."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Let `peak_memory` count from here on, where the system can (Linux); do nothing elsewhere."""
    with suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Return the peak resident memory in bytes, since the last reset where there was one.

    Linux counts it for each program; getrusage's number there includes that of the process which
    started this one.
    """
    with suppress(OSError, StopIteration):
        lines = STATUS.read_text(encoding="ascii").splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
