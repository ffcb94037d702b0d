"""Result files as data frames: what tables and figures read of them. Free of torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.files import is_locked
from experiments.config.catalog import experiment
from experiments.config.identity import identity
from experiments.config.schema import UserError
from experiments.config.sweep import outputs_of, run_configs
from experiments.results.result import AGGREGATES, FAILED, FINISHED, Failure, Result
from experiments.results.store import DAMAGED, MISSING, RUNNING, finished_result, ids, read, run_folder

BY = ("backbone", "task", "method", "setting")  # a row of a table over seeds
COLUMNS = (
    *("id", "backbone", "task", "method", "seed", "status", "primary", *AGGREGATES, "best_epoch"),
    *("adapter", "head", "total", "lora_parameters", "seconds", "config", "result", "error"),
)


def load(
    overrides: str | Iterable[str], outputs: str | Path | None = None, finished: bool = False, mini: bool = False
) -> pd.DataFrame:
    """One row for each planned run of an experiment ("demo") or of overrides; or for each `finished` one alone.

    `mini`: of the experiment's form on built-in models.

    Columns: id, backbone, task, method, seed, status ("finished", "running", "failed", "damaged" or "missing"), primary (the
    metric's name), best and last (its value at that epoch, 0 to 1), best_epoch, adapter, head, total and lora_parameters
    (counts), seconds (wall time of all stages), config (as planned), result (the whole file, as results.Result), error (of a
    failed run or a damaged file). Scores of runs that only measured are missing. FileNotFoundError, with the command that
    makes them, where no finished run is there to be had.
    """
    if isinstance(overrides, str):
        overrides = experiment(overrides).overrides(mini)
    overrides = list(overrides)
    folder = outputs or outputs_of(overrides)
    rows = []
    for config in run_configs(overrides):
        names = {group: config[group]["name"] for group in ("backbone", "task", "method")}
        try:
            row = _row(read(folder, config["id"]))
        except UserError as error:
            row = {"status": DAMAGED, "error": str(error)}
        if row["status"] in (MISSING, FAILED) and is_locked(run_folder(folder, config["id"])):
            row = {"status": RUNNING}
        rows.append({"id": config["id"], **names, "seed": config["seed"], "config": config, **row})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if not finished:
        return frame
    if not (frame.status == FINISHED).any():
        raise FileNotFoundError(f"no finished run; start with: python -m experiments.run {' '.join(overrides)}")
    return frame[frame.status == FINISHED]


def _row(result: Result | Failure | None) -> dict[str, Any]:
    if result is None:
        return {"status": MISSING}
    if isinstance(result, Failure):
        return {"status": FAILED, "error": result.error}
    counts, metrics = result.parameters, result.metrics
    row = {"status": FINISHED, "result": result, "seconds": result.total_seconds}
    row |= {"adapter": counts.adapter, "head": counts.head, "total": counts.total, "lora_parameters": counts.lora_parameters}
    if metrics is not None:
        row |= {"primary": metrics.primary, "best_epoch": metrics.best.epoch}
        row |= {which: metrics.primary_at(which) for which in AGGREGATES}
    return row


def times(outputs: str | Path) -> pd.DataFrame:
    """How long the finished runs of a folder took: backbone, task, method, seconds."""
    rows = []
    for id in ids(outputs):
        with suppress(UserError):  # a damaged file says nothing of times
            if found := finished_result(outputs, id):
                rows.append((found.backbone, found.task, found.method, found.total_seconds))
    return pd.DataFrame(rows, columns=["backbone", "task", "method", "seconds"])


def over_seeds(frame: pd.DataFrame, over: str = "mean", ids: bool = False) -> pd.DataFrame:
    """One row for each backbone, task, method and setting of finished runs, in their order; scores in percent as text.

    `over`: mean or median of the seeds. `ids`: with a column `runs`, the ids of the result files behind each row.

    Where runs of one method differ in more than the seed, the keys in which they differ are columns.
    """
    frame = frame.assign(setting=_settings(frame))
    rows = []
    for names, runs in frame.groupby(list(BY), sort=False):
        named = pd.Series(names, index=BY).to_dict()
        adapter, lora = runs.adapter.mean(), runs.lora_parameters.mean()
        rows.append(
            {
                **named,
                "metric": "-" if runs.primary.isna().all() else runs.primary.iloc[0],
                **{which: _spread(100 * runs[which].astype(float), over) for which in AGGREGATES},
                "seeds": len(runs),
                "adapter": f"{adapter:,.0f}",
                "of LoRA's": "-" if pd.isna(lora) else f"{100 * adapter / lora:.1f} %",
                "kept": _kept(runs),
                **({"runs": " ".join(runs.id)} if ids else {}),
            }
        )
    table = pd.DataFrame(rows)
    return table if table.setting.any() else table.drop(columns="setting")


def _kept(runs: pd.DataFrame) -> str:
    """How many layers kept an own LoRA, by module type, mean over seeds: "query 8.3, value 10.0"."""
    kept = [result.plan.kept for result in runs.result if result.plan]
    if not kept:
        return "-"
    means = {name: sum(len(layers[name]) for layers in kept) / len(kept) for name in kept[0]}
    return ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())


def _settings(frame: pd.DataFrame) -> pd.Series:
    """For each run, the keys and values (as text) in which it differs from others of its backbone, task and method."""
    counted = [{**identity(result.config), "seed": None} for result in frame.result]
    configs = pd.json_normalize(counted).astype(str).set_index(frame.index)
    texts: dict[Hashable, str] = {}
    for _, runs in frame.groupby(["backbone", "task", "method"]):
        some = configs.loc[runs.index]
        keys = [key for key in some if some[key].nunique() > 1]
        texts |= {index: ", ".join(f"{key}={row[key]}" for key in keys) for index, row in some.iterrows()}
    return pd.Series(texts).reindex(frame.index)


def _spread(values: pd.Series, over: str) -> str:
    """Mean or median and, from two values on, sample standard deviation."""
    if values.isna().all():
        return "-"
    return f"{values.agg(over):.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
