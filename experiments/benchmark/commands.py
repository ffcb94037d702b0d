"""Time commands of Python, each in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.config.schema import CONF


def timed(arguments: Sequence[str], expected: int = 0, **environment: str) -> dict[str, float]:
    """Run `python <arguments>` in the checkout, without the Hub; return its CPU and wall seconds.

    Args:
        arguments: Of Python.
        expected: The exit status that it should have.
        environment: Further variables.

    Raises:
        RuntimeError: It ended with another exit status.
    """
    before, start = _children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(CONF).parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    if done.returncode != expected:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return {"cpu_seconds": _children() - before, "wall_seconds": wall}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
