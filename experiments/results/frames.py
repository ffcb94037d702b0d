"""Result files as data frames, for tables and figures. This module does not import torch."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.files import is_locked
from experiments.config.added_keys import added_to
from experiments.config.catalog import experiment
from experiments.config.identity import identity
from experiments.config.schema import UserError
from experiments.config.sweep import paths_of, run_configs
from experiments.results import printing
from experiments.results.fingerprints import difference
from experiments.results.result import AGGREGATES, FAILED, FINISHED, Failure, Result
from experiments.results.store import (
    CHANGED,
    DAMAGED,
    MISSING,
    RUNNING,
    finished_result,
    ids,
    read,
    run_folder,
)

NULL = "null"  # what an absent value of a setting is called
BY = ("backbone", "task", "method", "setting")  # a row of a table over seeds
COLUMNS = (
    *("id", "backbone", "task", "method", "seed", "status", "primary", *AGGREGATES, "best_epoch"),
    *("adapter", "head", "total", "lora_parameters", "seconds", "config", "result", "error"),
)


def load(
    overrides: str | Iterable[str],
    outputs: str | Path | None = None,
    finished: bool = False,
    mini: bool = False,
) -> pd.DataFrame:
    """Load the planned runs of an experiment and their results, one row per run.

    Args:
        overrides: The name of an experiment ("demo"), or overrides of `experiments.run`.
        outputs: The folder of results. None: the one that the overrides name.
        finished: Whether to leave out runs that are not finished.
        mini: Whether to load the experiment's mini form, on built-in models.

    Returns:
        Columns: id, backbone, task, method, seed, status ("finished", "running", "failed",
        "changed": finished with other data or weights than those here now, "damaged" or
        "missing"), primary (the metric's name), best and last (its value at that
        epoch, 0 to 1), best_epoch, adapter, head, total and lora_parameters (counts), seconds
        (wall time of all stages), config (as planned), result (a results.Result), error (of a
        failed or changed run or a damaged file). Runs that only measured have no scores.

    Raises:
        FileNotFoundError: If `finished` and no run is; the message names the command to run.
    """
    if isinstance(overrides, str):
        overrides = experiment(overrides).overrides(mini)
    overrides = list(overrides)
    paths = paths_of(overrides)
    folder = outputs or str(paths["outputs"])
    rows = []
    for config in run_configs(overrides):
        names = {group: config[group]["name"] for group in ("backbone", "task", "method")}
        try:
            row = _row(read(folder, config["id"]))
        except UserError as error:
            row = {"status": DAMAGED, "error": str(error)}
        if row["status"] == FINISHED and (changed := difference(config, row["result"], paths)):
            row = {"status": CHANGED, "error": changed}
        if row["status"] in (MISSING, FAILED, CHANGED) and is_locked(
            run_folder(folder, config["id"])
        ):
            row = {"status": RUNNING}
        rows.append({"id": config["id"], **names, "seed": config["seed"], "config": config, **row})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if not finished:
        return frame
    printing.changed(frame)
    if not (frame.status == FINISHED).any():
        raise FileNotFoundError(
            f"no finished run; start with: python -m experiments.run {shlex.join(overrides)}"
        )
    return frame[frame.status == FINISHED]


def others(outputs: str | Path, known: Collection[str]) -> pd.DataFrame:
    """Load the results of a folder besides those of known runs, as `load` does.

    Args:
        outputs: The folder of results.
        known: The ids to leave out.
    """
    rows: list[dict[str, Any]] = []
    for id in ids(outputs):
        if id in known:
            continue
        try:
            found = read(outputs, id)
        except UserError as error:
            rows.append({"id": id, "status": DAMAGED, "error": str(error)})
            continue
        if found is not None:
            config = found.config
            names = {group: config[group]["name"] for group in ("backbone", "task", "method")}
            rows.append(
                {"id": id, **names, "seed": config["seed"], "config": config, **_row(found)}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(result: Result | Failure | None) -> dict[str, Any]:
    if result is None:
        return {"status": MISSING}
    if isinstance(result, Failure):
        return {"status": FAILED, "error": result.error}
    counts, metrics = result.parameters, result.metrics
    row = {"status": FINISHED, "result": result, "seconds": result.total_seconds}
    row |= {
        "adapter": counts.adapter,
        "head": counts.head,
        "total": counts.total,
        "lora_parameters": counts.lora_parameters,
    }
    if metrics is not None:
        row |= {"primary": metrics.primary, "best_epoch": metrics.best.epoch}
        row |= {which: metrics.primary_at(which) for which in AGGREGATES}
    return row


def times(outputs: str | Path) -> pd.DataFrame:
    """The wall times of all finished runs in a folder: backbone, task, method, seconds."""
    rows = []
    for id in ids(outputs):
        with suppress(UserError):  # a damaged file has no times
            if found := finished_result(outputs, id):
                rows.append((found.backbone, found.task, found.method, found.total_seconds))
    return pd.DataFrame(rows, columns=["backbone", "task", "method", "seconds"])


def over_seeds(frame: pd.DataFrame, aggregate: str = "mean", ids: bool = False) -> pd.DataFrame:
    """Aggregate finished runs over seeds: one row per backbone, task, method and setting.

    Args:
        frame: Finished runs, from `load`.
        aggregate: How to combine seeds: "mean" or "median".
        ids: Whether to add a column `runs` with the ids of the results behind each row.

    Returns:
        Scores as text, in percent. If runs of one method differ in more than the seed, the column
        `setting` names the keys and values in which they differ.
    """
    frame = frame.assign(setting=settings(frame))
    rows = []
    for names, runs in frame.groupby(list(BY), sort=False):
        named = pd.Series(names, index=BY).to_dict()
        adapter, lora = runs.adapter.mean(), runs.lora_parameters.mean()
        rows.append(
            {
                **named,
                "metric": "-" if runs.primary.isna().all() else runs.primary.iloc[0],
                **{
                    which: _spread(100 * runs[which].astype(float), aggregate)
                    for which in AGGREGATES
                },
                "seeds": len(runs),
                "adapter": f"{adapter:,.0f}",
                "of LoRA's": "-" if pd.isna(lora) else f"{100 * adapter / lora:.1f} %",
                "kept": kept_layers(runs),
                **({"runs": " ".join(runs.id)} if ids else {}),
            }
        )
    table = pd.DataFrame(rows)
    return table if table.setting.any() else table.drop(columns="setting")


def kept_layers(runs: pd.DataFrame) -> str:
    """Layers with their own LoRA per module type, mean over runs: "query 8.3, value 10.0"."""
    kept = [result.plan.kept for result in runs.result if result.plan]
    if not kept:
        return "-"
    means = {name: sum(len(layers[name]) for layers in kept) / len(kept) for name in kept[0]}
    return ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())


def settings(frame: pd.DataFrame) -> pd.Series:
    """For each finished run, how its config differs from others of its backbone, task and method.

    Texts such as "method.rank=8, recipe.epochs=3"; "" where runs differ in the seed alone. A key
    that is absent counts as null, as in the run's id.
    """
    texts = pd.Series("", index=frame.index, dtype=object)
    counted = pd.Series([_counted(result) for result in frame.result], frame.index, dtype=object)
    for _, runs in frame.groupby(["backbone", "task", "method"]):
        some = list(counted[runs.index])
        keys = [
            k for k in dict.fromkeys(chain(*some)) if len({one.get(k, NULL) for one in some}) > 1
        ]
        texts[runs.index] = [", ".join(f"{k}={one.get(k, NULL)}" for k in keys) for one in some]
    return texts


def _counted(result: Result) -> dict[str, str]:
    """The keys and values of a run's config that tell settings apart, as texts."""
    same = identity(result.config)
    # keys with a default count for no id, but tell settings apart
    method = {**added_to(result.config["method"]), **same["method"]}
    return dict(_leaves({**same, "method": method, "seed": None}))


def _leaves(node: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}{key}.")
        else:
            whole = isinstance(value, float) and value.is_integer()  # 1.0 is 1, as in the id
            yield f"{name}{key}", NULL if value is None else str(int(value) if whole else value)


def _spread(values: pd.Series, aggregate: str) -> str:
    """The aggregate and, for two or more values, the sample standard deviation."""
    if values.isna().all():
        return "-"
    return f"{values.agg(aggregate):.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
