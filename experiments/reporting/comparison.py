"""Our results beside the paper's: published tables and the result files of their experiments.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import results
from experiments.config.schema import UserError
from experiments.results import LOWER_IS_BETTER, as_shown

PAPER = Path(__file__).parents[1] / "paper"
AVERAGE = "average"
SEED_AGGREGATES = ("mean", "median")
# With five pairs no difference is significant at 0.05, whatever the scores (Wilcoxon 1945).
FEWEST_PAIRS = 6


@cache
def published() -> dict[str, dict[str, Any]]:
    """The published tables, keyed by the name of their experiment (paper/*.yaml)."""
    files = ("lora_drop", "prilora")
    return {
        name.lower(): table
        for file in files
        for name, table in yaml.safe_load(
            (PAPER / f"{file}.yaml").read_text(encoding="utf-8")
        ).items()
    }


@dataclass(frozen=True)
class Column:
    """What one column of a table shows of a run.

    Attributes:
        label: The heading.
        task: The task that was scored.
        metrics: The column shows their mean. Empty: the primary metric of the task.
        published: Where the paper's number is: a key of a row's `tasks`, or of the task's entry.
    """

    label: str
    task: str
    metrics: tuple[str, ...]
    published: str | None

    def score(self, run: Any, epoch: str) -> float:
        """The score of a run at the best or the last epoch, in percent if it is a fraction.

        NaN if the run is older than the score.
        """
        metrics = run.result.metrics
        keys, scores = self.metrics or (metrics.primary,), metrics.at(epoch).scores
        return sum(as_shown(key, scores.get(key, math.nan)) for key in keys) / len(keys)


@dataclass(frozen=True)
class Comparison:
    """One of our tables beside the paper's.

    Attributes:
        caption: The paper's caption, with the backbones if they are not the paper's.
        rows: The rows in order.
        columns: The columns in order.
        cells: One line per cell, with scores in percent. Columns: row, column, ours, std,
            n (seeds found), planned (seeds), paper, paper_std, runs (ids of the results used),
            difference (ours - paper), rank and paper_rank (1: best of its column, 2: second best)
            and note. The column "average" is the mean over the tasks that have results, each the
            mean of its own columns; there n and planned count tasks. The paper's average covers
            the same tasks. If those are all tasks, it is the published average.
        parameters: For each row, our trainable parameters outside the head, and the published
            number ("" if there is none).
        test: The paired test of LoRA-drop against LoRA, as a sentence.
        digits: Decimal places of the published scores.
        left_out: Methods of finished runs that belong to no row.
        readings: Which of our scores the paper's are compared with; "" if each has the same name.
    """

    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: pd.DataFrame
    parameters: dict[str, tuple[str, str]]
    test: str
    digits: int
    left_out: tuple[str, ...]
    readings: str = ""

    def cell(self, row: str, column: str) -> Any:
        """The line of `cells` for one row and column."""
        (found,) = self.cells[(self.cells.row == row) & (self.cells.column == column)].itertuples()
        return found


def compare(
    name: str, frame: pd.DataFrame, epoch: str = "best", aggregate: str = "mean"
) -> Comparison:
    """Compare the results of an experiment with the published table.

    Args:
        name: The experiment.
        frame: Its runs, from `results.load`. They may use another backbone or other tasks; the
            table then has no numbers of the paper.
        epoch: Which epoch of each run counts: "best" or "last".
        aggregate: How to combine seeds: "mean" or "median".

    Raises:
        UserError: If a row has several runs of one task and seed, which a cell would mix up.
    """
    table = published()[name]
    ((backbone, rows),) = table["models"].items()
    is_paper_backbone = set(frame.backbone) == {backbone}
    columns = _columns(table, rows, frame, is_paper_backbone)
    finished = frame[(frame.status == results.FINISHED) & frame.best.notna()]
    groups = {key: _of_row(frame, key, rows) for key in rows}
    cells = []
    for key, row in rows.items():
        runs = groups[key]
        for column in columns:
            planned = runs[runs.task == column.task]
            if planned.seed.duplicated().any():
                raise UserError(
                    f"{name}: the row {key} has runs of {column.task} "
                    "that differ in more than the seed; name one setting, or compare them with "
                    "experiments.figure or results.load"
                )
            found = planned[planned.index.isin(finished.index)]
            scores = pd.Series(
                [column.score(run, epoch) for run in found.itertuples()], dtype=float
            ).dropna()
            paper = _published_score(row, column) if is_paper_backbone else (None, None)
            counts = (len(scores), len(planned))
            cells.append(
                (
                    key,
                    column.label,
                    scores.agg(aggregate),
                    scores.std(),
                    *counts,
                    *paper,
                    " ".join(found.id),
                )
            )
    cells = pd.DataFrame(
        cells,
        columns=["row", "column", "ours", "std", "n", "planned", "paper", "paper_std", "runs"],
    )
    numbers = ["ours", "std", "paper", "paper_std"]
    cells[numbers] = cells[numbers].astype(float)
    averaged = any("avg_stated" in row for row in rows.values())
    if averaged:
        cells = pd.concat(
            [cells, _averages(cells, columns, rows, is_paper_backbone)], ignore_index=True
        )
    digits = _digits(rows)
    cells["difference"] = cells.ours - cells.paper
    cells["rank"] = _ranks(cells, "ours", digits)
    cells["paper_rank"] = _ranks(cells, "paper", digits)
    cells["note"] = [_note(table, cell) if is_paper_backbone else "" for cell in cells.itertuples()]
    parameters = {
        key: (
            _counts(finished[finished.index.isin(groups[key].index)]),
            (is_paper_backbone and row.get("trainable_params")) or "",
        )
        for key, row in rows.items()
    }
    caption = (
        table["caption"]
        if is_paper_backbone
        else f"{table['caption']}; here on {', '.join(sorted(set(frame.backbone)))}"
    )
    labels = (*(column.label for column in columns), *([AVERAGE] if averaged else []))
    in_rows = {index for runs in groups.values() for index in runs.index}
    left_out = tuple(dict.fromkeys(finished[~finished.index.isin(in_rows)].method))
    return Comparison(
        caption,
        tuple(rows),
        labels,
        cells,
        parameters,
        paired_test(finished, epoch),
        digits,
        left_out,
        _readings(table, columns) if is_paper_backbone else "",
    )


def _columns(
    table: Mapping[str, Any], rows: Mapping[str, Any], frame: pd.DataFrame, is_paper_backbone: bool
) -> list[Column]:
    """The published columns; for other tasks, those tasks with all metrics of the paper."""
    tasks = {task: None for row in rows.values() for task in row["tasks"] or ()}
    scores = [value for row in rows.values() for value in (row["tasks"] or {}).values()]
    several = next((list(value) for value in scores if "mean" not in value), [])
    named = table.get("columns", {})
    columns = []
    for key in tasks if is_paper_backbone else dict.fromkeys(frame.task):
        if not several:
            metrics = named.get(key, {}).get("metric", ())
            metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
            columns.append(
                Column(
                    key,
                    named.get(key, {}).get("task", key) if is_paper_backbone else key,
                    metrics if is_paper_backbone else (),
                    key,
                )
            )
        for metric in several:
            columns.append(Column(f"{key} {metric}", key, (metric,), metric))
            for other in table.get("read_as", {}).get(metric, ()):
                columns.append(Column(f"{key} {other} (as {metric})", key, (other,), metric))
        if is_paper_backbone:
            columns += [
                Column(f"{key} {metric}", key, (metric,), None)
                for metric in table.get("official", {}).get(key, ())
            ]
    return columns


def _readings(table: Mapping[str, Any], columns: list[Column]) -> str:
    """Say which of our scores each of the paper's is compared with, and which stand alone."""
    if not (others := table.get("read_as", {})):
        return ""
    parts = [f"{name} with {' and '.join((name, *ours))}" for name, ours in others.items()]
    alone = [column.metrics[0] for column in columns if column.published is None]
    return (
        f"The paper names no implementation; its numbers are compared: {'; '.join(parts)}. "
        f"For comparison with other work: {', '.join(alone)} (loradrop/metrics/official.py)."
    )


def _of_row(frame: pd.DataFrame, key: str, rows: Mapping[str, Any]) -> pd.DataFrame:
    """The runs of a row: those of its method that fit no other row of that method better."""
    method = rows[key].get("method", key)
    overrides = [
        set(row.get("overrides", ()))
        for name, row in rows.items()
        if row.get("method", name) == method
    ]
    common = set.intersection(*overrides)
    own = set(rows[key].get("overrides", ())) - common
    closer = [other - common for other in overrides if other - common > own]  # more specific rows

    def belongs(run: Any) -> bool:
        holds = [all(_holds(run.config, text) for text in texts) for texts in (own, *closer)]
        return holds[0] and not any(holds[1:])

    return frame[[run.method == method and belongs(run) for run in frame.itertuples()]]


def _holds(config: Any, override: str) -> bool:
    key, value = override.split("=", 1)
    for part in key.split("."):
        config = config[part]
    return config == yaml.safe_load(value)


def _published_score(row: Mapping[str, Any], column: Column) -> tuple[float | None, float | None]:
    """The paper's number and its standard deviation."""
    if column.published is None:
        return None, None
    tasks = row["tasks"] or {}
    value = tasks.get(column.published, tasks.get(column.task, {}))
    return (value["mean"], value["std"]) if "mean" in value else (value.get(column.published), None)


def _averages(
    cells: pd.DataFrame, columns: list[Column], rows: Mapping[str, Any], is_paper_backbone: bool
) -> pd.DataFrame:
    tasks = {column.label: column.task for column in columns}

    def mean(scores: pd.Series) -> float:
        return (
            scores.groupby(row.column.map(tasks)).mean().mean()
        )  # several columns of a task count as one

    averages = []
    for key, row in cells.groupby("row", sort=False):
        present = row[row.n > 0]
        compared = present if len(present) else row
        paper = mean(compared.paper) if compared.paper.notna().all() else None
        if is_paper_backbone and len(compared) == len(row):
            paper = rows[key]["avg_stated"]
        counts = (
            present.column.map(tasks).nunique(),
            len(set(tasks.values())) if row.planned.any() else 0,
        )
        averages.append((key, AVERAGE, mean(present.ours), None, *counts, paper, None, ""))
    frame = pd.DataFrame(averages, columns=cells.columns)
    return frame.astype(cells.dtypes.to_dict())


def _digits(rows: Mapping[str, Any]) -> int:
    """The number of decimal places of the paper's scores."""
    scores = [
        score
        for row in rows.values()
        for value in (row["tasks"] or {}).values()
        for score in value.values()
    ]
    return max(len(str(score).partition(".")[2]) for score in scores if score is not None)


def _ranks(cells: pd.DataFrame, which: str, digits: int) -> pd.Series:
    """1 for the best and 2 for the second best of a column, compared as shown.

    Our averages only take part if they cover all tasks.
    """
    whole = (cells.column != AVERAGE) | (cells.n == cells.planned) | (which == "paper")
    # formatted as in the table: round() rounds halves differently
    shown = cells[which].where(whole).map(lambda score: float(f"{score:.{digits}f}"))
    shown *= [-1 if column.endswith(LOWER_IS_BETTER) else 1 for column in cells.column]
    ranks = shown.groupby(cells.column).rank(method="dense", ascending=False)
    has_rivals = shown.groupby(cells.column).transform("count") > 1
    return ranks.where((ranks <= 2) & has_rivals).astype("Int64")


def _note(table: Mapping[str, Any], cell: Any) -> str:
    texts = [
        note["text"]
        for note in table.get("footnotes", ())
        if note["row"] in (None, cell.row)
        and (note["column"] is None or note["column"] in (cell.column, cell.column.split(" ")[-1]))
    ]
    return " ".join(texts) if pd.notna(cell.paper) else ""


def _counts(runs: pd.DataFrame) -> str:
    """Trainable parameters outside the head: one number, or a range."""
    if runs.empty:
        return "-"
    least, most = int(runs.adapter.min()), int(runs.adapter.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def paired_test(
    finished: pd.DataFrame, epoch: str, method: str = "lora_drop", against: str = "lora"
) -> str:
    """Compare two methods with Wilcoxon's signed-rank test over pairs of one task and seed.

    Args:
        finished: Finished runs, from `results.load`.
        epoch: Which epoch of each run counts: "best" or "last".
        method: The method under test.
        against: The method to compare with.

    Returns:
        The outcome as a sentence; "" if there are no pairs.
    """
    pivot = finished.assign(score=100 * finished[epoch].astype(float)).pivot_table(
        index=["backbone", "task", "seed"], columns="method", values="score", aggfunc=list
    )
    if not {method, against} <= set(pivot.columns):
        return ""
    pairs = pivot[[method, against]].dropna()
    pairs = pairs[
        [len(a) == len(b) == 1 for a, b in zip(pairs[method], pairs[against], strict=True)]
    ]
    gaps = [a[0] - b[0] for a, b in zip(pairs[method], pairs[against], strict=True)]
    if not gaps:
        return ""
    wins, ties = sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps)
    text = f"{method} - {against}, paired by task and seed: {sum(gaps) / len(gaps):+.2f} "
    text += f"on average over {len(gaps)} pairs, "
    text += f"{wins} wins, {ties} ties, {len(gaps) - wins - ties} losses"
    if len(gaps) - ties < FEWEST_PAIRS:
        return f"{text}; too few for a test."
    from scipy.stats import wilcoxon  # imported late: it takes half a second

    p = wilcoxon(gaps).pvalue
    return f"{text}; Wilcoxon signed-rank p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}."
