"""Our results of an experiment beside the paper's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments import results
from experiments.config.schema import UserError
from experiments.reporting.matching import runs_of_row
from experiments.reporting.published import (
    Column,
    columns_of,
    digits_of,
    layers_of,
    note_of,
    published,
    readings_of,
    score_of,
)
from experiments.reporting.statistics import (
    AVERAGE,
    averages_of,
    paired_test,
    parameter_range,
    ranks_of,
)

SEED_AGGREGATES = ("mean", "median")
CELLS = ["row", "column", "ours", "std", "n", "planned", "paper", "paper_std", "runs"]


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
        readings: Which of our scores the paper's are compared with; "" if the names say it.
        layers: For each row, the average number of layers of each module type that kept their own
            LoRA, ours and the published one; {} if the paper prints none.
    """

    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: pd.DataFrame
    parameters: dict[str, tuple[str, str]]
    test: str
    digits: int
    left_out: tuple[str, ...]
    readings: str
    layers: dict[str, tuple[str, str]]

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
    columns = columns_of(table, rows, frame, is_paper_backbone)
    finished = frame[(frame.status == results.FINISHED) & frame.best.notna()]
    groups = {key: runs_of_row(frame, key, rows) for key in rows}
    _check_seeds(name, groups, columns)
    lines = [
        {"row": key, "column": column.label}
        | _ours(groups[key], finished, column, epoch, aggregate)
        | (score_of(row, column) if is_paper_backbone else {})
        for key, row in rows.items()
        for column in columns
    ]
    cells = pd.DataFrame(lines, columns=CELLS)
    numbers = ["ours", "std", "paper", "paper_std"]
    cells[numbers] = cells[numbers].astype(float)
    averaged = any("avg_stated" in row for row in rows.values())
    if averaged:
        averages = averages_of(cells, columns, rows, is_paper_backbone)
        cells = pd.concat([cells, averages], ignore_index=True)
    digits = digits_of(rows)
    cells["difference"] = cells.ours - cells.paper
    cells["rank"] = ranks_of(cells, "ours", digits)
    cells["paper_rank"] = ranks_of(cells, "paper", digits)
    cells["note"] = [
        note_of(table, cell) if is_paper_backbone else "" for cell in cells.itertuples()
    ]
    done = {key: finished[finished.index.isin(runs.index)] for key, runs in groups.items()}
    in_rows = {index for runs in groups.values() for index in runs.index}
    return Comparison(
        caption=table["caption"] if is_paper_backbone else _caption_on(table, frame),
        rows=tuple(rows),
        columns=(*(column.label for column in columns), *([AVERAGE] if averaged else [])),
        cells=cells,
        parameters={
            key: (
                parameter_range(done[key]),
                (is_paper_backbone and row.get("trainable_params")) or "",
            )
            for key, row in rows.items()
        },
        test=paired_test(finished, epoch),
        digits=digits,
        left_out=tuple(dict.fromkeys(finished[~finished.index.isin(in_rows)].method)),
        readings=readings_of(table, columns) if is_paper_backbone else "",
        layers={
            key: (results.kept_layers(done[key]), layers_of(row) if is_paper_backbone else "")
            for key, row in rows.items()
            if "avg_layers" in row
        },
    )


def _check_seeds(name: str, groups: Mapping[str, pd.DataFrame], columns: list[Column]) -> None:
    """Raise UserError if a cell would mix runs that differ in more than the seed."""
    for key, runs in groups.items():
        for column in columns:
            if runs[runs.task == column.task].seed.duplicated().any():
                raise UserError(
                    f"{name}: the row {key} has runs of {column.task} "
                    "that differ in more than the seed; name one setting, or compare them with "
                    "experiments.figure or results.load"
                )


def _ours(
    runs: pd.DataFrame, finished: pd.DataFrame, column: Column, epoch: str, aggregate: str
) -> dict[str, Any]:
    """Our side of a cell."""
    planned = runs[runs.task == column.task]
    found = planned[planned.index.isin(finished.index)]
    scores = pd.Series([column.score(run, epoch) for run in found.itertuples()], dtype=float)
    scores = scores.dropna()
    return {
        "ours": scores.agg(aggregate),
        "std": scores.std(),
        "n": len(scores),
        "planned": len(planned),
        "runs": " ".join(found.id),
    }


def _caption_on(table: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """The paper's caption, with the backbones that we used instead of the paper's."""
    return f"{table['caption']}; here on {', '.join(sorted(set(frame.backbone)))}"
