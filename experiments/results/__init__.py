"""Results: the only code that reads and writes result files."""

from experiments.results.frames import load, over_seeds, times
from experiments.results.result import AGGREGATES, FAILED, FINISHED, Failure, Result
from experiments.results.store import (
    CHANGED,
    DAMAGED,
    MISSING,
    PREDICTIONS,
    RUNNING,
    finished_result,
    read,
    read_analysis,
    run_folder,
    write,
    write_analysis,
)

__all__ = [
    "AGGREGATES",
    "CHANGED",
    "DAMAGED",
    "FAILED",
    "FINISHED",
    "MISSING",
    "PREDICTIONS",
    "RUNNING",
    "Failure",
    "Result",
    "finished_result",
    "load",
    "over_seeds",
    "read",
    "read_analysis",
    "run_folder",
    "times",
    "write",
    "write_analysis",
]
