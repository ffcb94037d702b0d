"""Results: the only code that reads and writes result files."""

from experiments.results.frames import kept_layers, load, others, over_seeds, settings, times
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
    ANALYSES,
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
    "ANALYSES",
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
    "others",
    "over_seeds",
    "read",
    "read_analysis",
    "run_folder",
    "settings",
    "times",
    "write",
    "write_analysis",
]
