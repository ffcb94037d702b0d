"""The loggers that conf/logger/*.yaml name. Results do not depend on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.results import AGGREGATES, Result

MODES = ("offline", "online")


@dataclass
class RunInfo:
    """What a logger needs to know about a run."""

    id: str
    folder: Path
    config: DictConfig


def csv_logger(run: RunInfo) -> Any:
    """Log curves to <run>/csv/version_<attempt>/metrics.csv."""
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(run.folder, name="csv")


def wandb_logger(run: RunInfo, project: str, entity: str | None, mode: str) -> Any:
    """Log to a W&B run in <outputs>/wandb. Never asks for a login.

    Args:
        run: The run.
        project: The W&B project.
        entity: The W&B user or team; None for the default.
        mode: One of MODES.

    Raises:
        ValueError: If the mode is unknown, there is no key, or W&B fails.
    """
    if mode not in MODES:
        raise ValueError(f"logger.mode must be one of {', '.join(MODES)}, got '{mode}'")
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    if mode == "online" and not wandb.login(prompt=False):
        raise ValueError(
            "logger.mode=online needs a W&B key: run `wandb login` once, or set WANDB_API_KEY"
        )
    folder = Path(run.config.paths.outputs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            name=run.id,
            group=run.id.rsplit("-s", 1)[0],  # mostly runs that differ only in their seed
            dir=folder,
            settings=wandb.Settings(silent=True),
            config=OmegaConf.to_container(run.config, resolve=True),
        )
    except wandb.Error as error:
        raise ValueError(
            f"W&B: {error} (logger.mode=offline needs no network and no key)"
        ) from error
    return WandbLogger(experiment=wandb.run)


def log_result(result: Result) -> None:
    """Add final numbers, the plan and a chart of importances to the current W&B run, if any.

    The result file is already written, so W&B errors are only printed.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    try:
        _log_result(wandb, result)
    except wandb.Error as error:
        print(f"W&B did not take the final numbers of {result.id}: {error}")


def _log_result(wandb: Any, result: Result) -> None:
    if result.metrics is not None:
        for which in AGGREGATES:
            wandb.run.summary.update(
                {f"{which}/{key}": value for key, value in result.metrics.at(which)}
            )
    wandb.run.summary.update({f"parameters/{key}": value for key, value in result.parameters})
    for kind, layers in (result.importance.normalized if result.importance else {}).items():
        table = wandb.Table(["layer", "importance"], [[layer, y] for layer, y in layers.items()])
        chart = wandb.plot.bar(table, "layer", "importance", f"Importance of {kind} by layer")
        wandb.log({f"importance/{kind}": chart})
    if result.plan:
        wandb.run.summary.update({"plan": result.plan.model_dump()})


@contextmanager
def finishing() -> Iterator[None]:
    """End the W&B run that the block started, so that a sweep's next run starts another one."""
    try:
        yield
    except BaseException:
        _finish(exit_code=1)
        raise
    _finish(exit_code=0)


def _finish(exit_code: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)
