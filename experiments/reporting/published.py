"""The papers' tables (paper/*.yaml): their columns, scores, decimal places and footnotes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.results import as_shown

PAPER = Path(__file__).parents[1] / "paper"


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
            None: the paper has no such number.
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


def columns_of(
    table: Mapping[str, Any], rows: Mapping[str, Any], frame: pd.DataFrame, is_paper_backbone: bool
) -> list[Column]:
    """The columns to show: the published ones; on another backbone, one for each of our tasks.

    Args:
        table: The published table.
        rows: Its rows.
        frame: Our runs.
        is_paper_backbone: Whether they use the paper's backbone.
    """
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
        for metric in table.get("official", {}).get(key, ()) if is_paper_backbone else ():
            columns.append(Column(f"{key} {metric}", key, (metric,), None))
    return columns


def readings_of(table: Mapping[str, Any], columns: list[Column]) -> str:
    """Say which of our scores each of the paper's is compared with, and which stand alone."""
    if not (others := table.get("read_as", {})):
        return ""
    parts = [f"{name} with {' and '.join((name, *ours))}" for name, ours in others.items()]
    alone = [column.metrics[0] for column in columns if column.published is None]
    return (
        f"The paper names no implementation of its scores; compared are {', '.join(parts)}. "
        f"For comparison with other work: {', '.join(alone)} (loradrop/metrics/official.py)."
    )


def score_of(row: Mapping[str, Any], column: Column) -> dict[str, float | None]:
    """The paper's number and its standard deviation, None where it has none."""
    if column.published is None:
        return {"paper": None, "paper_std": None}
    tasks = row["tasks"] or {}
    value = tasks.get(column.published, tasks.get(column.task, {}))
    if "mean" in value:
        return {"paper": value["mean"], "paper_std": value["std"]}
    return {"paper": value.get(column.published), "paper_std": None}


def score_at(backbone: str, task: str, method: str, key: str, value: float) -> float:
    """The published score of a row that sets one key, as Table 6's set method.threshold.

    NaN if the papers have none.
    """
    for table in published().values():
        for name, row in table["models"].get(backbone, {}).items():
            given = [text.partition("=") for text in row.get("overrides", ())]
            if row.get("method", name) == method and [one[0] for one in given] == [key]:
                found = score_of(row, Column("", task, (), task))["paper"]
                if found is not None and float(given[0][2]) == value:
                    return found
    return math.nan


def layers_of(row: Mapping[str, Any]) -> str:
    """The published number of layers of each module type with their own LoRA, on average."""
    return ", ".join(f"{name} {number}" for name, number in row["avg_layers"].items())


def digits_of(rows: Mapping[str, Any]) -> int:
    """The number of decimal places of the paper's scores."""
    scores = [
        score
        for row in rows.values()
        for value in (row["tasks"] or {}).values()
        for score in value.values()
    ]
    return max(len(str(score).partition(".")[2]) for score in scores if score is not None)


def note_of(table: Mapping[str, Any], cell: Any) -> str:
    """The footnotes to a cell that has a published number."""
    texts = [
        note["text"]
        for note in table.get("footnotes", ())
        if note["row"] in (None, cell.row)
        and (note["column"] is None or note["column"] in (cell.column, cell.column.split(" ")[-1]))
    ]
    return " ".join(texts) if pd.notna(cell.paper) else ""
