"""The numbers behind the charts of any set of runs, as tidy frames.

A row is a method in one setting, named by its `label`; runs that differ in the seed alone share it.
"""

from __future__ import annotations

import math
import re

import pandas as pd

from experiments import results
from experiments.plotting.words import words
from experiments.reporting.published import Column, published, score_of

UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def labelled(finished: pd.DataFrame) -> pd.DataFrame:
    """Add the column `label`: the method in words, and the setting if it has several.

    Args:
        finished: Finished runs, from `results.load`.
    """
    settings = results.settings(finished)
    labels = [label(*each) for each in zip(finished.method, settings, strict=True)]
    return finished.assign(label=labels)


def label(method: str, setting: str) -> str:
    """A method in words, and the keys and values of its setting without the keys' groups."""
    short = re.sub(r"[\w.]*\.(\w+)=", r"\1=", setting)
    return f"{words(method)}, {short}" if short else words(method)


def importance_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Importance of each layer, mean over seeds.

    Args:
        runs: From `labelled`.

    Returns:
        Columns: backbone, task, label, module_type, layer, importance (y_i), kept (the fraction of
        runs in which the layer kept its own LoRA), row (what differs: task, method, setting).
    """
    names = ["backbone", "task", "method", "label", "module_type", "layer"]
    rows = [
        (run.backbone, run.task, run.method, run.label, *layer)
        for run in runs.itertuples()
        for layer in run.result.layers()
    ]
    data = pd.DataFrame(rows, columns=[*names, "importance", "kept"])
    data = data.groupby(names, sort=False, as_index=False).mean()
    tasks, labels = data.task.map(words), data.label
    if labels.nunique() == 1:
        return data.assign(row=tasks)
    if data.method.nunique() == 1:
        labels = labels.str.removeprefix(f"{words(data.method.iloc[0])}, ")
    return data.assign(row=labels if tasks.nunique() == 1 else tasks + ", " + labels)


def scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Score at the best epoch and number of trainable parameters, over seeds.

    Args:
        runs: From `labelled`.

    Returns:
        Columns: backbone, task, label, metric, score and std (percent), seeds, adapter
        (trainable parameters outside the head, mean).
    """
    scored = runs[runs.best.notna()]
    scored = scored.assign(best=100 * scored.best.astype(float), metric=scored.primary)
    groups = scored.groupby(["backbone", "task", "label", "metric"], sort=False, as_index=False)
    return groups.agg(
        score=("best", "mean"),
        std=("best", "std"),
        seeds=("best", "size"),
        adapter=("adapter", "mean"),
    )


def epochs(runs: pd.DataFrame) -> pd.DataFrame:
    """Score and loss of every epoch, over seeds.

    Args:
        runs: From `labelled`.

    Returns:
        Columns: backbone, task, label, metric, epoch, score and std (percent), loss and
        loss_std (of training).
    """
    names = ["backbone", "task", "label", "metric", "epoch"]
    rows = [
        (
            *(run.backbone, run.task, run.label),
            *(run.primary, epoch.epoch),
            *(100 * epoch.scores.get(run.primary, math.nan), epoch.train_loss),
        )
        for run in runs[runs.primary.notna()].itertuples()
        for epoch in run.result.metrics.epochs
    ]
    data = pd.DataFrame(rows, columns=[*names, "score", "loss"])
    return data.groupby(names, sort=False, as_index=False).agg(
        score=("score", "mean"),
        std=("score", "std"),
        loss=("loss", "mean"),
        loss_std=("loss", "std"),
    )


def paper_scores(name: str, data: pd.DataFrame) -> pd.DataFrame:
    """The published scores of a table's rows, where our runs are on the paper's backbone.

    Args:
        name: The experiment.
        data: From `scores`.

    Returns:
        Columns: backbone, task, label, score, adapter. Empty if the paper has none.
    """
    ((backbone, rows),) = published().get(name, {"models": {"": {}}})["models"].items()
    found = []
    for task, part in data[data.backbone == backbone].groupby("task", sort=False):
        for key, row in rows.items():
            known = score_of(row, Column("", task, (), part.metric.iloc[0]))
            text = row.get("trainable_params") or ""
            if known["paper"] is not None and text[-1:] in UNITS:
                name = label(row.get("method", key), "")
                count = float(text[:-1]) * UNITS[text[-1]]
                found.append((backbone, task, name, known["paper"], count))
    return pd.DataFrame(found, columns=["backbone", "task", "label", "score", "adapter"])
