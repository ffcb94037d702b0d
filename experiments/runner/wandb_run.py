"""A run in Weights & Biases. Imported for logger=wandb alone.

W&B shows what the result file says. Its process may end before ours: the run then goes on without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pandas as pd
import wandb
from pytorch_lightning.loggers import WandbLogger

from experiments.common import console
from experiments.common.files import check_writable
from experiments.config.identity import group_id
from experiments.plotting.runs import importance_map
from experiments.plotting.words import words
from experiments.results import AGGREGATES, Result
from experiments.results.result import to_plain
from experiments.runner.loggers import RunInfo

ERRORS = (wandb.Error, OSError)  # OSError: the connection to W&B's process is lost
SHOWN_ELSEWHERE = ("schema", "id", "config", "metrics", "importance")  # of a result
SETTINGS = wandb.Settings(
    silent=True,
    console="off",
    # they would tell the host, the user and paths, and the git remote may hold a key
    host="",
    x_disable_meta=True,
    disable_git=True,
    save_code=False,
)

_lost: set[str] = set()  # ids of runs whose W&B has gone


class Curves(WandbLogger):
    """Lightning's logger, which W&B's end does not stop."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        _attempt(super().log_metrics, metrics, step)


def start(run: RunInfo, project: str, entity: str | None, mode: str) -> Curves:
    """Start a W&B run with our id, or go on in it; see loggers.wandb_logger."""
    folder = run.folder.parents[1]
    # W&B would write to a temporary folder instead
    check_writable(folder / "wandb")
    folder.mkdir(parents=True, exist_ok=True)
    _lost.discard(run.id)
    try:
        wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            id=run.id,
            name=run.id,
            group=group_id(run.facts["config"]),
            resume="allow" if mode == "online" else None,  # `wandb sync` joins offline parts by id
            dir=folder,
            settings=SETTINGS,
            config={**run.facts["config"], **{k: v for k, v in run.facts.items() if k != "config"}},
        )
    except ERRORS as error:
        raise ValueError(
            f"W&B: {error} (logger.mode=offline needs no network and no key)"
        ) from error
    return Curves(experiment=wandb.run)


def log_result(result: Result) -> None:
    """Add final numbers, the plan, and charts to the W&B run."""
    _attempt(_log_result, result)


def finish(exit_code: int) -> None:
    """End the W&B run, so that a sweep's next run starts another one."""
    _attempt(lambda: wandb.finish(exit_code=exit_code))
    if wandb.run is not None and wandb.run.id in _lost:
        with suppress(*ERRORS):
            wandb.teardown()  # the next run gets a new process


def _attempt(action: Callable[..., Any], *arguments: Any) -> None:
    """Do something in W&B. When W&B is gone, say so once, and do nothing from then on."""
    if wandb.run is None or wandb.run.id in _lost:
        return
    try:
        action(*arguments)
    except ERRORS as error:
        _lost.add(wandb.run.id)
        console.error(f"W&B is gone ({error}); {wandb.run.id} goes on without it")


def _log_result(result: Result) -> None:
    wandb.run.summary.update(dict(_summary(result)))
    charts: dict[str, Any] = {}
    layers = pd.DataFrame(result.layers(), columns=["module_type", "layer", "importance", "kept"])
    if len(layers):
        layers = layers.assign(row=words(result.method), kept=layers.kept.astype(float))
        charts["importance"] = wandb.Image(importance_map(layers))
    if result.metrics:
        name, adapter = result.metrics.primary, "parameters of the adapter"
        point = [result.parameters.adapter, result.metrics.primary_at("best")]
        table = wandb.Table([adapter, name], [point])
        title = f"{words(name)} against parameters"
        charts["score"] = wandb.plot.scatter(table, adapter, name, title)
    if charts:
        wandb.log(charts)


def _summary(result: Result) -> Iterator[tuple[str, Any]]:
    """What the result file says, with names like parameters/adapter and best/accuracy."""
    plain = to_plain(result)
    for which in AGGREGATES if result.metrics else ():
        yield from ((f"{which}/{key}", value) for key, value in plain["metrics"][which].items())
    for key, value in plain.items():
        if key in SHOWN_ELSEWHERE:
            continue
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", each) for name, each in value.items())
        else:
            yield key, value
