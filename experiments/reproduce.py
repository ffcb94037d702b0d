"""Reproduce an experiment: its runs, then its table and figure if catalog.yaml lists them.

    python -m experiments.reproduce table7                  on the paper's models and tasks
    python -m experiments.reproduce table7 --mini           on built-in models
    python -m experiments.reproduce table7 task=rte seed=0  part of it

Repeat the command to continue after an interruption; finished runs are not repeated. If some runs
fail, the table and figure show the others. The exit status is 0 only if every step succeeded.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from experiments import figure, table
from experiments.cli import Options, guarded, parse
from experiments.common import console
from experiments.config.catalog import experiment
from experiments.config.sweep import run_configs

GRACE = 10  # seconds that the runs get to end by themselves


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, None, "")
    run_configs(options.overrides)  # report a mistake once, before any step
    failed = [
        f"{name} (exit status {status})"
        for name, step in _steps(options).items()
        if (status := step())
    ]
    if failed:
        console.error(
            f"{options.experiment}: failed: {', '.join(failed)}; the same command tries again"
        )
    return 1 if failed else 0


def _steps(options: Options) -> dict[str, Callable[[], int]]:
    """The steps in order, by name. Each returns an exit status."""
    entry = experiment(options.experiment)
    shown = [entry.name, *(["--mini"] if options.given.mini else []), *options.given.overrides]
    steps = {"runs": lambda: carry_out(options.overrides)}
    if entry.has_table:
        steps["table"] = lambda: guarded(lambda: table.main(shown))
    if entry.figure:
        steps["figure"] = lambda: guarded(lambda: figure.main(shown))
    return steps


def carry_out(overrides: list[str]) -> int:
    """Run `experiments.run` in a separate process, so that its memory is released afterwards.

    If this process is told to end, the runs end too.

    Args:
        overrides: The overrides of `experiments.run`.

    Returns:
        Its exit status; negative if a signal ended it.
    """
    process = subprocess.Popen([sys.executable, "-m", "experiments.run", *overrides])
    try:
        return process.wait()
    finally:
        if process.poll() is None:  # Ctrl-C or SIGTERM; a terminal signals both processes
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    sys.exit(guarded(main))
