"""The loggers that conf/logger/*.yaml name. Results do not depend on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results import Result

MODES = ("offline", "online")
WANDB = "experiments.runner.wandb_run"


@dataclass
class RunInfo:
    """What a logger needs to know about a run.

    Attributes:
        id: Its id.
        folder: The folder of its files.
        facts: What its result file will say about config and environment.
    """

    id: str
    folder: Path
    facts: dict[str, Any]


def csv_logger(run: RunInfo) -> Any:
    """Log curves to <run>/csv/version_<attempt>/metrics.csv."""
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(run.folder, name="csv")


def wandb_logger(run: RunInfo, project: str, entity: str | None, mode: str) -> Any:
    """Log to a W&B run in <outputs>/wandb. Never asks for a login.

    Args:
        run: The run. Its id is that of the W&B run, so a later attempt goes on in it.
        project: The W&B project.
        entity: The W&B user or team; None for the default.
        mode: One of MODES.

    Raises:
        ValueError: If the mode is unknown, there is no key, or W&B fails.
        OSError: If W&B's folder cannot be written to.
    """
    if mode not in MODES:
        raise ValueError(f"logger.mode must be one of {', '.join(MODES)}, got '{mode}'")
    import wandb

    if mode == "online" and not wandb.login(prompt=False):
        raise ValueError(
            "logger.mode=online needs a W&B key: run `wandb login` once, or set WANDB_API_KEY"
        )
    from experiments.runner import wandb_run

    return wandb_run.start(run, project, entity, mode)


def log_result(result: Result) -> None:
    """Add a written result to the run's W&B run, if it has one."""
    if started := sys.modules.get(WANDB):
        started.log_result(result)


@contextmanager
def finishing() -> Iterator[None]:
    """End the W&B run that the block started, if it did."""
    code = 1
    try:
        yield
        code = 0
    finally:
        if started := sys.modules.get(WANDB):
            started.finish(code)
