"""The end of a sweep: runs that other processes carry out, a table over seeds, the names of runs that did not finish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments import results, show
from experiments.config import UserError
from experiments.execution import run
from experiments.files import check_writable
from experiments.jobs import as_config


class Summary(Callback):
    """Named in conf/run.yaml; Hydra calls it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_writable(Path(config.paths.outputs))
        except OSError as error:  # Hydra writes there, too, and would show a traceback
            show.failed(str(error))
            sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        overrides = OmegaConf.to_container(config.hydra.overrides.task)
        try:
            if config.wait:
                _wait(results.load(overrides), config.paths)
            unfinished = _show(results.load(overrides))
        except Exception as error:  # Hydra would turn it into a warning
            show.failed(f"{type(error).__name__}: {error}")
            sys.exit(1)
        if unfinished:
            sys.exit(1)


def _wait(frame: pd.DataFrame, paths: DictConfig) -> None:
    """For what other processes carry out; what they leave unfinished is carried out here."""
    for planned in frame[frame.status == results.RUNNING].itertuples():
        try:
            run(as_config(planned.config, **paths), planned.id)
        except UserError as error:
            show.failed(str(error))


def _show(frame: pd.DataFrame) -> int:
    """Print the table; the number of runs that did not finish."""
    finished = frame[frame.status == results.FINISHED]
    if len(finished):
        show.overview(results.over_seeds(finished))
    elsewhere = frame[frame.status == results.RUNNING]
    if len(elsewhere):
        show.said(f"{len(elsewhere)} of {len(frame)} runs are being carried out by other processes")
    unfinished = frame[~frame.status.isin([results.FINISHED, results.RUNNING])]
    for left in unfinished.itertuples():
        error = "see above" if left.result is None else show.first_line(left.result["error"])
        show.failed(f"{left.status}: {left.id}: {error}")
    if len(unfinished):
        show.failed(f"{len(unfinished)} of {len(frame)} runs did not finish; the same command tries them again")
    return len(unfinished)
