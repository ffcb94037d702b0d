"""Results: the only code that reads and writes result files."""

from experiments.results.frames import kept_layers, load, over_seeds, times
from experiments.results.result import (
    AGGREGATES,
    FAILED,
    FINISHED,
    LOWER_IS_BETTER,
    Failure,
    Result,
    as_shown,
)
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
    "LOWER_IS_BETTER",
    "MISSING",
    "PREDICTIONS",
    "RUNNING",
    "Failure",
    "Result",
    "as_shown",
    "finished_result",
    "kept_layers",
    "load",
    "over_seeds",
    "read",
    "read_analysis",
    "run_folder",
    "times",
    "write",
    "write_analysis",
]
