"""Ours beside the paper's: what a published table prints, and what the result files of its experiment say. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import results
from experiments.config.schema import UserError

PAPER = Path(__file__).parents[1] / "paper"
AVERAGE = "average"
OVER = ("mean", "median")  # seeds
FEWEST_PAIRS = 6  # with five no difference is significant at 0.05, whatever the scores (Wilcoxon 1945)


@cache
def published() -> dict[str, dict[str, Any]]:
    """The printed tables by the name of their experiment (paper/*.yaml)."""
    files = ("lora_drop", "prilora")
    return {
        name.lower(): table
        for file in files
        for name, table in yaml.safe_load((PAPER / f"{file}.yaml").read_text(encoding="utf-8")).items()
    }


@dataclass(frozen=True)
class Column:
    """What a column of a table shows of a run."""

    label: str
    task: str
    metrics: tuple[str, ...]  # their mean; none: the task's primary one
    printed: str | None  # key of the paper's number in a row's `tasks`, or in those of the task

    def score(self, run: Any, epoch: str) -> float:
        """In percent."""
        metrics = run.result.metrics
        keys = self.metrics or (metrics.primary,)
        return 100 * sum(metrics.at(epoch).scores[key] for key in keys) / len(keys)


@dataclass(frozen=True)
class Comparison:
    """A table of ours beside the paper's.

    cells: one row for each cell, with the columns row, column, ours, std, n (seeds found), planned (seeds), paper,
    paper_std, runs (ids of the result files behind it), difference (ours - paper), place and paper_place (1: best, 2:
    second best of its column), note; scores in percent. The column "average" is the mean over the tasks that are there, of
    each the mean of its columns: n and planned count tasks. The paper's is over the same tasks, and as printed over all.
    """

    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: pd.DataFrame
    parameters: dict[str, tuple[str, str]]  # by row: ours (trainable, without head), as printed ("" where there is none)
    test: str  # LoRA-drop against LoRA
    digits: int  # as printed
    left_out: tuple[str, ...]  # methods of finished runs that belong to no row

    def cell(self, row: str, column: str) -> Any:
        (found,) = self.cells[(self.cells.row == row) & (self.cells.column == column)].itertuples()
        return found


def compare(name: str, frame: pd.DataFrame, epoch: str = "best", over: str = "mean") -> Comparison:
    """`frame`: results.load of the experiment, also on another backbone or other tasks; then the paper has no numbers.

    UserError: runs of one row, task and seed in several settings, which a cell would mix up.
    """
    table = published()[name]
    ((backbone, rows),) = table["models"].items()
    same = set(frame.backbone) == {backbone}
    columns = _columns(table, rows, frame, same)
    finished = frame[(frame.status == results.FINISHED) & frame.best.notna()]
    groups = {key: _of_row(frame, key, rows) for key in rows}
    cells = []
    for key, row in rows.items():
        runs = groups[key]
        for column in columns:
            planned = runs[runs.task == column.task]
            if planned.seed.duplicated().any():
                text = f"{name}: the row {key} has runs of {column.task} that differ in more than the seed; name one setting"
                raise UserError(f"{text}, or compare them with experiments.figure or results.load")
            found = planned[planned.index.isin(finished.index)]
            scores = pd.Series([column.score(run, epoch) for run in found.itertuples()], dtype=float)
            paper = _printed(row, column) if same else (None, None)
            counts = (len(scores), len(planned))
            cells.append((key, column.label, scores.agg(over), scores.std(), *counts, *paper, " ".join(found.id)))
    cells = pd.DataFrame(cells, columns=["row", "column", "ours", "std", "n", "planned", "paper", "paper_std", "runs"])
    numbers = ["ours", "std", "paper", "paper_std"]
    cells[numbers] = cells[numbers].astype(float)
    averaged = any("avg_stated" in row for row in rows.values())
    if averaged:
        cells = pd.concat([cells, _averages(cells, columns, rows, same)], ignore_index=True)
    digits = _digits(rows)
    cells["difference"] = cells.ours - cells.paper
    cells["place"], cells["paper_place"] = _places(cells, "ours", digits), _places(cells, "paper", digits)
    cells["note"] = [_note(table, cell) if same else "" for cell in cells.itertuples()]
    parameters = {
        key: (_counts(finished[finished.index.isin(groups[key].index)]), (same and row.get("trainable_params")) or "")
        for key, row in rows.items()
    }
    where = table["caption"] if same else f"{table['caption']}; here on {', '.join(sorted(set(frame.backbone)))}"
    labels = (*(column.label for column in columns), *([AVERAGE] if averaged else []))
    in_rows = {index for runs in groups.values() for index in runs.index}
    left_out = tuple(dict.fromkeys(finished[~finished.index.isin(in_rows)].method))
    return Comparison(where, tuple(rows), labels, cells, parameters, paired_test(finished, epoch), digits, left_out)


def _columns(table: Mapping[str, Any], rows: Mapping[str, Any], frame: pd.DataFrame, same: bool) -> list[Column]:
    """As printed; where other tasks were run, those tasks, with all metrics of generated texts that the paper prints."""
    tasks = {task: None for row in rows.values() for task in row["tasks"] or ()}
    scores = [value for row in rows.values() for value in (row["tasks"] or {}).values()]
    several = next((list(value) for value in scores if "mean" not in value), [])
    named = table.get("columns", {})
    columns = []
    for key in tasks if same else dict.fromkeys(frame.task):
        if not several:
            metrics = named.get(key, {}).get("metric", ())
            metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
            columns.append(Column(key, named.get(key, {}).get("task", key) if same else key, metrics if same else (), key))
        for printed in several:
            columns.append(Column(f"{key} {printed}", key, (printed,), printed))
            for other in table.get("read_as", {}).get(printed, ()):
                columns.append(Column(f"{key} {other} (as {printed})", key, (other,), printed))
    return columns


def _of_row(frame: pd.DataFrame, key: str, rows: Mapping[str, Any]) -> pd.DataFrame:
    """The runs of a row: of its method and, where several rows have that method, with what tells it from them."""
    method = rows[key].get("method", key)
    overrides = [set(row.get("overrides", ())) for name, row in rows.items() if row.get("method", name) == method]
    common = set.intersection(*overrides)
    own = set(rows[key].get("overrides", ())) - common
    closer = [other - common for other in overrides if other - common > own]  # rows that say more of a run

    def belongs(run: Any) -> bool:
        holds = [all(_holds(run.config, text) for text in texts) for texts in (own, *closer)]
        return holds[0] and not any(holds[1:])

    return frame[[run.method == method and belongs(run) for run in frame.itertuples()]]


def _holds(config: Any, override: str) -> bool:
    key, value = override.split("=", 1)
    for part in key.split("."):
        config = config[part]
    return config == yaml.safe_load(value)


def _printed(row: Mapping[str, Any], column: Column) -> tuple[float | None, float | None]:
    """The paper's number and its standard deviation."""
    tasks = row["tasks"] or {}
    value = tasks.get(column.printed, tasks.get(column.task, {}))
    return (value["mean"], value["std"]) if "mean" in value else (value.get(column.printed), None)


def _averages(cells: pd.DataFrame, columns: list[Column], rows: Mapping[str, Any], same: bool) -> pd.DataFrame:
    tasks = {column.label: column.task for column in columns}

    def mean(scores: pd.Series) -> float:
        return scores.groupby(row.column.map(tasks)).mean().mean()  # several columns of a task count as one

    averages = []
    for key, row in cells.groupby("row", sort=False):
        there = row[row.n > 0]
        over = there if len(there) else row
        paper = mean(over.paper) if over.paper.notna().all() else None
        if same and len(over) == len(row):
            paper = rows[key]["avg_stated"]
        counts = (there.column.map(tasks).nunique(), len(set(tasks.values())) if row.planned.any() else 0)
        averages.append((key, AVERAGE, mean(there.ours), None, *counts, paper, None, ""))
    frame = pd.DataFrame(averages, columns=cells.columns)
    return frame.astype(cells.dtypes.to_dict())


def _digits(rows: Mapping[str, Any]) -> int:
    """Behind the point, in the paper's scores."""
    scores = [score for row in rows.values() for value in (row["tasks"] or {}).values() for score in value.values()]
    return max(len(str(score).partition(".")[2]) for score in scores if score is not None)


def _places(cells: pd.DataFrame, which: str, digits: int) -> pd.Series:
    """1 for the best and 2 for the second best of a column, as shown. Averages of ours must be over all tasks."""
    whole = (cells.column != AVERAGE) | (cells.n == cells.planned) | (which == "paper")
    shown = cells[which].where(whole).map(lambda score: float(f"{score:.{digits}f}"))  # round() rounds halves differently
    ranks = shown.groupby(cells.column).rank(method="dense", ascending=False)
    several = shown.groupby(cells.column).transform("count") > 1
    return ranks.where((ranks <= 2) & several).astype("Int64")


def _note(table: Mapping[str, Any], cell: Any) -> str:
    texts = [
        note["text"]
        for note in table.get("footnotes", ())
        if note["row"] in (None, cell.row)
        and (note["column"] is None or note["column"] in (cell.column, cell.column.split(" ")[-1]))
    ]
    return " ".join(texts) if pd.notna(cell.paper) else ""


def _counts(runs: pd.DataFrame) -> str:
    """Trainable parameters outside the head: one number, or the smallest and the largest."""
    if runs.empty:
        return "-"
    least, most = int(runs.adapter.min()), int(runs.adapter.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def paired_test(finished: pd.DataFrame, epoch: str, method: str = "lora_drop", against: str = "lora") -> str:
    """Wilcoxon's signed-rank test over the pairs of one task and seed, in a sentence; "" where there is no pair."""
    pivot = finished.assign(score=100 * finished[epoch].astype(float)).pivot_table(
        index=["backbone", "task", "seed"], columns="method", values="score", aggfunc=list
    )
    if not {method, against} <= set(pivot.columns):
        return ""
    pairs = pivot[[method, against]].dropna()
    pairs = pairs[[len(a) == len(b) == 1 for a, b in zip(pairs[method], pairs[against], strict=True)]]
    gaps = [a[0] - b[0] for a, b in zip(pairs[method], pairs[against], strict=True)]
    if not gaps:
        return ""
    wins, ties = sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps)
    text = f"{method} - {against}, paired by task and seed: {sum(gaps) / len(gaps):+.2f} on average over {len(gaps)} pairs, "
    text += f"{wins} wins, {ties} ties, {len(gaps) - wins - ties} losses"
    if len(gaps) - ties < FEWEST_PAIRS:
        return f"{text}; too few for a test."
    from scipy.stats import wilcoxon  # half a second

    p = wilcoxon(gaps).pvalue
    return f"{text}; Wilcoxon signed-rank p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}."
