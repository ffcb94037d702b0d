"""The importances that runs measured, as a tidy frame."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments import results
from experiments.config.schema import UserError


def measured(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Importance per layer of each run that has a plan.

    Args:
        frame: Runs, from `results.load`.
        keys: Keys of the config, or columns of `frame`, to add as columns.

    Returns:
        Columns: backbone, task, seed, the keys, module_type, layer, importance (y_i), kept.
    """
    rows = [
        (run.backbone, run.task, run.seed, *(value(run, key) for key in keys), *layer)
        for run in frame[frame.status == results.FINISHED].itertuples()
        for layer in run.result.layers()
    ]
    return pd.DataFrame(
        rows,
        columns=["backbone", "task", "seed", *keys, "module_type", "layer", "importance", "kept"],
    )


def measured_once(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """`measured`, in which runs that share a stage 1 count as one; `kept` is their mean.

    Raises:
        UserError: If a seed has several measurements, which a mean would mix up.
    """
    data = measured(frame, keys)
    where = ["backbone", "task", "seed", *keys, "module_type", "layer"]
    groups = data.groupby([*where, "importance"], sort=False, as_index=False, dropna=False)
    data = groups.kept.mean()
    check_one_setting(data, where)
    return data


def value(run: Any, key: str) -> Any:
    """Look up a column of a run, or a dotted key of its config; UserError if there is none."""
    if hasattr(run, key):
        return getattr(run, key)
    node = run.config
    for part in key.split("."):
        if part not in node:
            raise UserError(f"{run.id} has no {key}; name runs that have it, e.g. method=lora_drop")
        node = node[part]
    return node


def check_one_setting(data: pd.DataFrame, keys: list[str]) -> None:
    """Raise UserError if `keys` do not tell the rows apart: a figure would mix up settings."""
    twice = data[data.duplicated(keys)]
    if len(twice):
        backbone, task, seed = twice.iloc[0][["backbone", "task", "seed"]]
        raise UserError(
            f"{task} on {backbone}, seed {seed}, has runs in several settings; "
            "name one, e.g. method.rank=8"
        )
