"""End a sweep: wait for other processes, print a table over seeds and the unfinished runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments import results
from experiments.common import console
from experiments.common.files import check_writable
from experiments.config.schema import UserError
from experiments.config.sweep import as_config
from experiments.results import printing
from experiments.runner.claim import claim_run
from experiments.runner.execution import run
from experiments.runner.launching import is_local


class Summary(Callback):
    """Hydra's callback for sweeps, named in conf/run.yaml."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_writable(Path(config.paths.outputs))
        except OSError as error:  # Hydra writes there too, and would print a traceback
            console.error(str(error))
            sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        overrides: Any = OmegaConf.to_container(config.hydra.overrides.task)
        try:
            if config.wait:
                local = is_local(config.hydra.launcher._target_)
                _wait(results.load(overrides), config.paths, local)
            unfinished = _show(results.load(overrides))
        except Exception as error:  # Hydra would turn it into a warning
            console.error(f"{type(error).__name__}: {error}")
            sys.exit(1)
        if unfinished:
            sys.exit(1)


def _wait(frame: pd.DataFrame, paths: DictConfig, carry_out: bool) -> None:
    """Wait for runs of other processes, and carry out those that they leave unfinished.

    Args:
        frame: The runs of the sweep.
        paths: The folders on this machine.
        carry_out: False on a cluster, where this process is on a login node.
    """
    for planned in frame[frame.status == results.RUNNING].itertuples():
        try:
            if not carry_out:
                with claim_run(paths.outputs, planned.id):
                    continue
            run(as_config(planned.config, **_plain(paths)))
        except UserError as error:
            console.error(str(error))


def _show(frame: pd.DataFrame) -> int:
    """Print the table; return how many runs are unfinished or were made with other data."""
    finished = frame[frame.status == results.FINISHED]
    if len(finished):
        printing.overview(results.over_seeds(finished))
        if mix := printing.mixes(finished):
            console.error(mix)
    elsewhere = frame[frame.status == results.RUNNING]
    if len(elsewhere):
        console.info(
            f"{len(elsewhere)} of {len(frame)} runs are being carried out by other processes"
        )
    unfinished = frame[~frame.status.isin([results.FINISHED, results.RUNNING])]
    printing.unfinished(unfinished)
    if len(unfinished):
        console.error(
            f"{len(unfinished)} of {len(frame)} runs did not finish; "
            "the same command tries them again"
        )
    return len(unfinished)


def _plain(paths: DictConfig) -> dict[str, Any]:
    return {str(key): path for key, path in paths.items()}
