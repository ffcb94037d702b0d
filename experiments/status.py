"""How far experiments are: planned, finished, running, failed and missing runs, and the time that is left.

python -m experiments.status table7                    one experiment, with the errors of its failed runs
python -m experiments.status table7 task=rte           a part of it
python -m experiments.status all                       every experiment

A run that two experiments need is one run: `shared` counts the unfinished ones that others need too. The time left is the
mean time of finished runs of the same backbone, task and method (or else of the same backbone and task), one after another;
`>` where that is known of some of them alone.
"""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd

from experiments import results
from experiments.cli import guarded, parse
from experiments.common import console
from experiments.config.catalog import item, names
from experiments.config.sweep import run_configs

ALL = "all"
STATES = (results.FINISHED, results.RUNNING, results.FAILED, results.DAMAGED, results.MISSING)


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, None, "", (ALL,))
    paths = options.overrides[1:] if options.experiment == ALL else [o for o in options.overrides if o.startswith("paths.")]
    ids, overrides = {}, {}
    if options.experiment != ALL:
        run_configs(options.overrides)  # a mistake in them shows before the others are planned
    for name in console.progress(names(), "planning"):
        overrides[name] = [f"experiment={name}", *(item(name).mini if options.given.mini else []), *paths]
        if name == options.experiment:
            overrides[name] = options.overrides
        ids[name] = {config["id"] for config in run_configs(overrides[name])}
    shown = names() if options.experiment == ALL else [options.experiment]
    frames = {name: results.load(overrides[name]) for name in shown}
    times = results.times(options.outputs)
    table = pd.DataFrame([_line(name, frames[name], ids, times) for name in shown])
    console.print_frame(table, "", text=("experiment",), wrapped=("time left",))
    if options.experiment != ALL:
        _details(frames[options.experiment], ids, options.experiment)
    return 0


def _line(name: str, frame: pd.DataFrame, ids: dict[str, set[str]], times: pd.DataFrame) -> dict[str, Any]:
    left = frame[frame.status != results.FINISHED]
    others = set().union(*(ids[other] for other in ids if other != name))
    counts = {state: int((frame.status == state).sum()) for state in STATES}
    return {
        "experiment": name,
        "runs": len(frame),
        **{state: count or "" for state, count in counts.items() if state != results.DAMAGED or count},
        "shared": len(set(left.id) & others) or "",
        "time left": _left(left, times),
    }


def _left(runs: pd.DataFrame, times: pd.DataFrame) -> str:
    """Estimated for the runs that are not finished: "> 1 h" where runs like some of them are, "?" where none is."""
    if runs.empty:
        return "-"
    alike = times.groupby(["backbone", "task"]).seconds.mean()
    same = times.groupby(["backbone", "task", "method"]).seconds.mean()
    seconds = pd.Series(
        [same.get((run.backbone, run.task, run.method), alike.get((run.backbone, run.task))) for run in runs.itertuples()],
        dtype=float,
    )
    total, unknown = seconds.sum(), int(seconds.isna().sum())
    known = f"{total / 3600:.1f} h" if total >= 3600 else f"{total / 60:.0f} min" if total >= 60 else f"{total:.0f} s"
    return known if not unknown else "?" if unknown == len(runs) else f"> {known}"


def _details(frame: pd.DataFrame, ids: dict[str, set[str]], name: str) -> None:
    for run in frame[frame.status == results.RUNNING].itertuples():
        console.info(f"running: {run.id}")
    for run in frame[frame.status.isin([results.FAILED, results.DAMAGED])].itertuples():
        console.error(f"{run.status}: {run.id}: {console.first_line(run.error)}")
    left = set(frame[frame.status != results.FINISHED].id)
    shared = {other: len(left & there) for other, there in ids.items() if other != name and left & there}
    if shared:
        counted = ", ".join(f"{other} ({count})" for other, count in sorted(shared.items(), key=lambda item: -item[1]))
        console.info(f"unfinished runs that others need too: {counted}")


if __name__ == "__main__":
    sys.exit(guarded(main))
