"""The end of a sweep: a table over seeds, and the names of the runs that did not finish."""

from __future__ import annotations

import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments import results, show


class Summary(Callback):
    """Named in conf/run.yaml; Hydra calls it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            unfinished = self._show(OmegaConf.to_container(config.hydra.overrides.task))
        except Exception as error:  # Hydra would turn it into a warning
            show.failed(f"{type(error).__name__}: {error}")
            sys.exit(1)
        if unfinished:
            sys.exit(1)

    def _show(self, overrides: list[str]) -> int:
        """Print the table; the number of runs that did not finish."""
        frame = results.load(overrides)
        finished = frame[frame.status == results.FINISHED]
        if len(finished):
            show.overview(results.over_seeds(finished))
        unfinished = frame[frame.status != results.FINISHED]
        for run in unfinished.itertuples():
            error = "see above" if run.result is None else show.first_line(run.result["error"])
            show.failed(f"{run.status}: {run.id}: {error}")
        if len(unfinished):
            show.failed(f"{len(unfinished)} of {len(frame)} runs did not finish; the same command tries them again")
        return len(unfinished)
