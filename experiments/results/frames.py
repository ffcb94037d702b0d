"""Result files as data frames: what tables and figures read of them. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.files import is_locked
from experiments.config.catalog import experiment
from experiments.config.identity import NOT_IN_HASH, NOT_IN_TRAINER_HASH
from experiments.config.schema import UserError
from experiments.config.sweep import outputs_of, run_configs
from experiments.results.store import DAMAGED, FAILED, FINISHED, MISSING, RUNNING, read, run_folder

AGGREGATES = ("best", "last")  # epoch
COLUMNS = (
    *("id", "backbone", "task", "method", "seed", "status", "primary", *AGGREGATES, "best_epoch"),
    *("adapter", "head", "total", "lora_parameters", "seconds", "config", "result"),
)


def load(
    overrides: str | Iterable[str], outputs: str | Path | None = None, finished: bool = False, mini: bool = False
) -> pd.DataFrame:
    """One row for each planned run of an experiment ("demo") or of overrides; or for each `finished` one alone.

    `mini`: of the experiment's form on built-in models.

    Columns: id, backbone, task, method, seed, status ("finished", "running", "failed", "damaged" or "missing"), primary (the
    metric's name), best and last (its value at that epoch, 0 to 1), best_epoch, adapter, head, total and lora_parameters
    (counts), seconds (wall time of all stages), config (as planned), result (the whole file). Scores of runs that only
    measured are missing. FileNotFoundError, with the command that makes them, where no finished run is there to be had.
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
            row = {"status": DAMAGED, "result": {"error": str(error)}}
        if row["status"] in (MISSING, FAILED) and is_locked(run_folder(folder, config["id"])):
            row = {"status": RUNNING, "result": None}
        rows.append({"id": config["id"], **names, "seed": config["seed"], "config": config, **row})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if not finished:
        return frame
    if not (frame.status == FINISHED).any():
        raise FileNotFoundError(f"no finished run; start with: python -m experiments.run {' '.join(overrides)}")
    return frame[frame.status == FINISHED]


def _row(result: dict[str, Any] | None) -> dict[str, Any]:
    row = {"status": MISSING if result is None else result["status"], "result": result}
    if row["status"] == FINISHED:
        row |= {**result["parameters"], "seconds": sum(result["seconds"].values())}
        metrics = result["metrics"]
        if metrics is not None:
            row |= {"primary": metrics["primary"], "best_epoch": metrics["best"]["epoch"]}
            row |= {which: metrics[which][metrics["primary"]] for which in AGGREGATES}
    return row


def times(outputs: str | Path) -> pd.DataFrame:
    """How long the finished runs of a folder took: backbone, task, method, seconds."""
    rows = []
    for path in sorted(Path(outputs, "runs").glob("*/result.json")):
        try:
            result = read(outputs, path.parent.name)
        except UserError:
            continue
        if result and result["status"] == FINISHED:
            names = [result["config"][group]["name"] for group in ("backbone", "task", "method")]
            rows.append((*names, sum(result["seconds"].values())))
    return pd.DataFrame(rows, columns=["backbone", "task", "method", "seconds"])


def over_seeds(frame: pd.DataFrame, over: str = "mean", ids: bool = False) -> pd.DataFrame:
    """One row for each backbone, task, method and setting of finished runs, in their order; scores in percent as text.

    `over`: mean or median of the seeds. `ids`: with a column `runs`, the ids of the result files behind each row.

    Where runs of one method differ in more than the seed, the keys in which they differ are columns.
    """
    frame = frame.assign(setting=_settings(frame))
    rows = []
    for names, runs in frame.groupby(["backbone", "task", "method", "setting"], sort=False):
        adapter, lora = runs.adapter.mean(), runs.lora_parameters.mean()
        rows.append(
            {
                **dict(zip(("backbone", "task", "method", "setting"), names, strict=True)),
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
    plans = [result["plan"] for result in runs.result if result["plan"]]
    kinds = plans[0]["kept"] if plans else ()
    return ", ".join(f"{kind} {sum(len(plan['kept'][kind]) for plan in plans) / len(plans):.1f}" for kind in kinds) or "-"


def _settings(frame: pd.DataFrame) -> pd.Series:
    """For each run, the keys and values (as text) in which it differs from others of its backbone, task and method."""
    configs = pd.json_normalize([result["config"] for result in frame.result]).astype(str).set_index(frame.index)
    ignored = {"seed", *NOT_IN_HASH, *(f"trainer.{key}" for key in NOT_IN_TRAINER_HASH)}
    configs = configs[[key for key in configs if not {key, key.partition(".")[0]} & ignored]]
    texts = pd.Series("", index=frame.index)
    for _, runs in frame.groupby(["backbone", "task", "method"]):
        some = configs.loc[runs.index]
        keys = [key for key in some if some[key].nunique() > 1]
        texts[runs.index] = [", ".join(f"{key}={row[key]}" for key in keys) for _, row in some.iterrows()]
    return texts


def _spread(values: pd.Series, over: str) -> str:
    """Mean or median and, from two values on, sample standard deviation."""
    if values.isna().all():
        return "-"
    return f"{values.agg(over):.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
