"""The only reader and writer of result files."""

from experiments.results.frames import AGGREGATES, load, over_seeds, times
from experiments.results.store import (
    DAMAGED,
    FAILED,
    FINISHED,
    MISSING,
    PREDICTIONS,
    RUNNING,
    read,
    run_folder,
    write,
)

__all__ = [
    "AGGREGATES",
    "DAMAGED",
    "FAILED",
    "FINISHED",
    "MISSING",
    "PREDICTIONS",
    "RUNNING",
    "load",
    "over_seeds",
    "read",
    "run_folder",
    "times",
    "write",
]
