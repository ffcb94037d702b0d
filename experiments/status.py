"""Show the progress of experiments: runs planned, finished, running and failed; time left.

    python -m experiments.status table7                    one experiment, and why runs failed
    python -m experiments.status table7 task=rte           part of it
    python -m experiments.status all                       every experiment

Experiments can share runs: the column "needed elsewhere" of `status all` counts the unfinished runs
that other experiments need too. The time left assumes one run at a time, each as long as finished
runs of the same backbone, task and method (or else backbone and task) took on average; `>` means
that some runs have no estimate.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pandas as pd

from experiments import results
from experiments.cli import combined, guarded, parse
from experiments.common import console
from experiments.common.files import holder_of
from experiments.config.catalog import experiment, names
from experiments.results import printing

ALL = "all"
RARE = (results.CHANGED, results.DAMAGED)  # shown only where there are some
STATES = (results.FINISHED, results.RUNNING, results.FAILED, *RARE, results.MISSING)


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, None, "", (ALL,))
    times = results.times(options.outputs)
    if options.experiment != ALL:
        frame = results.load(options.overrides)
        _show([line(options.experiment, frame, times)])
        _details(frame, options.outputs)
        return 0
    frames = {}
    for name in console.progress(names(), "planning"):
        mini = options.given.mini and bool(experiment(name).mini)
        frames[name] = results.load(
            combined(experiment(name).overrides(mini), options.given.overrides)
        )
    needed = Counter(id for frame in frames.values() for id in set(frame.id))
    _show([line(name, frame, times, needed) for name, frame in frames.items()])
    return 0


def _show(lines: list[dict[str, Any]]) -> None:
    console.print_frame(
        pd.DataFrame(lines), "", text=("experiment",), wrapped=("needed elsewhere", "time left")
    )


def line(
    name: str, frame: pd.DataFrame, times: pd.DataFrame, needed: Counter[str] | None = None
) -> dict[str, Any]:
    """The row of an experiment in the table of the status.

    Args:
        name: What the row is called.
        frame: The runs, from `results.load`.
        times: From `results.times`.
        needed: The number of experiments that need each id.
    """
    left = frame[frame.status != results.FINISHED]
    counts = {state: int((frame.status == state).sum()) for state in STATES}
    row = {
        "experiment": name,
        "runs": len(frame),
        **{state: count or "" for state, count in counts.items() if state not in RARE or count},
    }
    if needed is not None:
        row["needed elsewhere"] = sum(needed[id] > 1 for id in left.id) or ""
    return row | {"time left": _left(left, times)}


def _left(runs: pd.DataFrame, times: pd.DataFrame) -> str:
    """Estimated time for unfinished runs: "> 1 h" if some have no estimate, "?" if none has one."""
    if runs.empty:
        return "-"
    by_task = times.groupby(["backbone", "task"]).seconds.mean()
    by_method = times.groupby(["backbone", "task", "method"]).seconds.mean()
    seconds = pd.Series(
        [
            by_method.get(
                (run.backbone, run.task, run.method), by_task.get((run.backbone, run.task))
            )
            for run in runs.itertuples()
        ],
        dtype=float,
    )
    total, unknown = seconds.sum(), int(seconds.isna().sum())
    minutes_or_less = f"{total / 60:.0f} min" if total >= 60 else f"{total:.0f} s"
    known = f"{total / 3600:.1f} h" if total >= 3600 else minutes_or_less
    return known if not unknown else "?" if unknown == len(runs) else f"> {known}"


def _details(frame: pd.DataFrame, outputs: str) -> None:
    for run in frame[frame.status == results.RUNNING].itertuples():
        folder = results.run_folder(outputs, run.id)
        console.info(f"running: {run.id} ({holder_of(folder)})")
    printing.unfinished(frame[frame.status.isin([results.FAILED, *RARE])])


if __name__ == "__main__":
    sys.exit(guarded(main))
