"""Summaries of results, and how the generated pages write numbers and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import results
from experiments.common import console
from experiments.reporting.measured import measured
from experiments.results import printing

NOTHING = "No run is finished yet."


def load(name: str, outputs: str | Path, mini: bool = False) -> pd.DataFrame:
    """The finished runs of an experiment, or of its mini form; empty if there are none.

    Prints what the numbers made of them do not say: runs with other data, and mixed versions.
    """
    frame = results.load(name, outputs=outputs, mini=mini)
    printing.changed(frame)
    finished = frame[frame.status == results.FINISHED]
    if mix := printing.mixes(finished):
        console.error(f"{name}: {mix}")
    return finished


def stage1_summary(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """What stage 1 found, over seeds: a row per task, setting and module type.

    Args:
        frame: Finished runs.
        keys: Keys of the config that tell settings apart.

    Returns:
        Columns: task, the keys, module_type, seeds, own (layers with a LoRA of their own, mean),
        least and most (over seeds), effective (1 / sum of y squared: the number of equally
        important layers that would be as uneven), agreement (Spearman's correlation between seeds,
        mean over pairs; missing with one seed).
    """
    data = measured(frame, list(keys))
    group = ["task", *keys, "module_type"]
    runs = data.groupby([*group, "seed"], sort=False, as_index=False).agg(
        own=("kept", "sum"), effective=("importance", lambda y: 1 / (y**2).sum())
    )
    found = runs.groupby(group, sort=False).agg(
        seeds=("own", "size"),
        own=("own", "mean"),
        least=("own", "min"),
        most=("own", "max"),
        effective=("effective", "mean"),
    )
    between = data.groupby(group, sort=False)[["layer", "seed", "importance"]].apply(
        lambda part: mean_correlation(part, "seed")
    )
    return found.assign(agreement=between).reset_index()


def mean_correlation(data: pd.DataFrame, column: str) -> float:
    """Spearman's correlation of importances, mean over all pairs of values of a column.

    Args:
        data: Columns: layer, importance, and `column`, of one module type.
        column: What is compared, e.g. "seed".

    Returns:
        The mean; NaN if there is one value only.
    """
    matrix = data.pivot(index="layer", columns=column, values="importance").corr("spearman")
    pairs = [matrix.iloc[i, j] for i in range(len(matrix)) for j in range(i)]
    return mean(pairs)


def between_tasks(data: pd.DataFrame) -> dict[str, float]:
    """Spearman's correlation between tasks, mean over pairs of tasks and over seeds, by type.

    Args:
        data: From `measured`, of one setting.
    """
    found = {}
    for kind, part in data.groupby("module_type", sort=False):
        whole = part[part.groupby("seed").task.transform("nunique") == part.task.nunique()]
        found[kind] = whole.groupby("seed")[["layer", "task", "importance"]].apply(
            lambda one: mean_correlation(one, "task")
        )
    return {kind: float(by_seed.mean()) for kind, by_seed in found.items()}


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table; a sentence where there are no rows."""
    if not rows:
        return NOTHING
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def share_of_lora(frame: pd.DataFrame) -> float:
    """The adapter's parameters in percent of LoRA's, mean over runs."""
    return float((100 * frame.adapter / frame.lora_parameters).mean())


def progress(outputs: str | Path, *names: str) -> str:
    """How many runs of experiments are finished, and their wall time together."""
    frame = pd.concat(results.load(name, outputs=outputs) for name in names)
    finished = frame[frame.status == results.FINISHED]
    return f"{len(finished)} of {len(frame)} runs, {finished.seconds.sum() / 3600:.1f} hours"


def number(value: float, digits: int = 1) -> str:
    """Format a number; "-" where there is none."""
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def mean_and_spread(scores: pd.Series) -> str:
    """Format a mean and, for two or more values, their sample standard deviation."""
    spread = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
    return number(scores.mean()) + spread


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of no values."""
    return sum(values) / len(values) if values else float("nan")


def per_type(summary: pd.DataFrame, cell: Callable[[Any], str]) -> str:
    """Join the cells of query and value, in this order."""
    return " / ".join(cell(row) for row in summary.sort_values("module_type").itertuples())
