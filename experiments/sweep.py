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
        frame = results.load(OmegaConf.to_container(config.hydra.overrides.task))
        finished = frame[frame.status == results.FINISHED]
        if len(finished):
            show.overview(results.over_seeds(finished))
        unfinished = frame[frame.status != results.FINISHED]
        for run in unfinished.itertuples():
            error = run.result["error"].strip().splitlines()[-1] if run.status == results.FAILED else "see above"
            show.failed(f"{run.status}: {run.id}: {error}")
        if len(unfinished):
            show.failed(f"{len(unfinished)} of {len(frame)} runs did not finish; the same command tries them again")
            sys.exit(1)
