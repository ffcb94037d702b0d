"""Numbers over several runs or cells: averages over tasks, ranks, ranges and the paired test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.config.added_keys import added_to
from experiments.reporting.published import Column
from experiments.results import LOWER_IS_BETTER

AVERAGE = "average"
# With five pairs no difference is significant at 0.05, whatever the scores (Wilcoxon 1945).
FEWEST_PAIRS = 6


def averages_of(
    cells: pd.DataFrame, columns: list[Column], rows: Mapping[str, Any], is_paper_backbone: bool
) -> pd.DataFrame:
    """Average each row over its tasks; see Comparison.cells.

    Args:
        cells: The cells of the columns.
        columns: The columns.
        rows: The published rows.
        is_paper_backbone: Whether the paper's numbers are shown.

    Returns:
        One cell for each row, with the columns of `cells`.
    """
    tasks = {column.label: column.task for column in columns}

    def mean(scores: pd.Series) -> float:
        # several columns of a task count as one
        return scores.groupby(row.column.map(tasks)).mean().mean()

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


def ranks_of(cells: pd.DataFrame, which: str, digits: int) -> pd.Series:
    """Rank the cells of each column: 1 for the best, 2 for the second best, none for others.

    Our averages only take part if they cover all tasks.

    Args:
        cells: The cells.
        which: What is ranked: "ours" or "paper".
        digits: Decimal places. Scores are compared as they are shown.
    """
    whole = (cells.column != AVERAGE) | (cells.n == cells.planned) | (which == "paper")
    # formatted as in the table: round() rounds halves differently
    shown = cells[which].where(whole).map(lambda score: float(f"{score:.{digits}f}"))
    shown *= [-1 if column.endswith(LOWER_IS_BETTER) else 1 for column in cells.column]
    ranks = shown.groupby(cells.column).rank(method="dense", ascending=False)
    has_rivals = shown.groupby(cells.column).transform("count") > 1
    return ranks.where((ranks <= 2) & has_rivals).astype("Int64")


def parameter_range(runs: pd.DataFrame) -> str:
    """Trainable parameters outside the head: one number, or a range."""
    if runs.empty:
        return "-"
    least, most = int(runs.adapter.min()), int(runs.adapter.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def paired_tests(finished: pd.DataFrame, epoch: str, key: str, against: str) -> list[str]:
    """Compare each value of a config's key with one of them, as `paired_test` does.

    Args:
        finished: Finished runs, from `results.load`.
        epoch: Which epoch of each run counts: "best" or "last".
        key: Two parts of a config's key, such as "method.criterion".
        against: The value to compare with.

    Returns:
        A sentence for each other value that has pairs, in the order of the runs.
    """
    group, name = key.split(".")
    nodes = [result.config[group] for result in finished.result]
    values = [str((added_to(node) | node).get(name)) for node in nodes]
    frame = finished.assign(method=values)
    others = [value for value in dict.fromkeys(values) if value != against]
    found = [paired_test(frame, epoch, value, against) for value in others]
    return [text for text in found if text]


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
    text = f"{method} - {against}, paired by task and seed: {sum(gaps) / len(gaps):+.2f} points "
    text += f"on average over {len(gaps)} pair{'s' if len(gaps) > 1 else ''}: "
    text += f"{wins} won, {ties} tied, {len(gaps) - wins - ties} lost"
    if len(gaps) - ties < FEWEST_PAIRS:
        return f"{text}; too few for a test."
    from scipy.stats import wilcoxon  # imported late: it takes half a second

    p = wilcoxon(gaps).pvalue
    return f"{text}; Wilcoxon signed-rank p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}."
