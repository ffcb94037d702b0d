"""Hydra's launchers for joblib and submitit, made to survive the loss of a job.

Hydra finds launchers in the package `hydra_plugins` only. The plugins on which these are built stop
at the first lost job. These wait for every job and return those that ended, so that the sweep's
summary is printed and names what is missing. Finished runs get no job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

# of the extra `cluster`; without one of them there is nothing to build on
PLUGINS = ("hydra_plugins.hydra_joblib_launcher", "hydra_plugins.hydra_submitit_launcher")

try:
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ModuleNotFoundError as error:
    if error.name not in PLUGINS:  # a fault of a plugin that is there
        raise
else:

    class CoresLauncher(JoblibLauncher):
        """Several runs at once in worker processes of this machine."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            from joblib.externals.loky.process_executor import TerminatedWorkerError

            from experiments.common import console
            from experiments.runner.launching import unfinished

            todo = unfinished(job_overrides)
            try:
                return list(_ended(super().launch(todo, initial_job_idx) if todo else []))
            except TerminatedWorkerError as error:  # killed, often for lack of memory
                console.error(f"a worker has died: {' '.join(str(error).split())}")
                return []

    class SubmititLauncher(BaseSubmititLauncher):
        """A job for each unfinished run."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            from experiments.common import console
            from experiments.runner.launching import report, unfinished, wait_for

            todo = unfinished(job_overrides)
            if not todo:
                return []
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            calls = [
                (list(overrides), "hydra.sweep.dir", i, f"job_{i}", Singleton.get_state())
                for i, overrides in enumerate(todo, initial_job_idx)
            ]
            jobs = self._executor().map_array(self, *zip(*calls, strict=True))
            console.info(f"{len(jobs)} jobs: {jobs[0].job_id} to {jobs[-1].job_id}")
            ended = []
            try:
                for job in _ended(wait_for(jobs)):
                    ended.append(job)
                    if job.return_value is not None:  # what it printed is in a file of its own
                        report(job.return_value)
                return ended
            except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
                console.info("the jobs go on without this command; cancel those you do not want")
                raise

        def _executor(self) -> Any:
            """Submitit's executor with the settings of the config."""
            import submitit
            from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

            settings = dict(self.params)
            folder = settings.pop("submitit_folder")
            general = BaseQueueConf.__dataclass_fields__
            own = {
                key if key in general else f"{self._EXECUTOR}_{key}": value
                for key, value in settings.items()
            }
            timeouts = f"{self._EXECUTOR}_max_num_timeout"
            made = {timeouts: own.pop(timeouts)} if timeouts in own else {}
            executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **made)
            executor.update_parameters(**own)
            return executor

    class SlurmLauncher(SubmititLauncher):
        """Jobs of Slurm."""

        _EXECUTOR = "slurm"

    class LocalLauncher(SubmititLauncher):
        """Processes of this machine, as submitit would start them on a cluster."""

        _EXECUTOR = "local"


def _ended(jobs: Iterable[JobReturn]) -> Iterator[JobReturn]:
    """The jobs that did not raise. The others are reported; Hydra would raise the first error."""
    from experiments.common import console

    for job in jobs:
        if job.status == JobStatus.COMPLETED:
            yield job
        else:
            error = job._return_value  # `return_value` would raise it
            console.error(f"{' '.join(job.overrides)}: {type(error).__name__}: {error}")
