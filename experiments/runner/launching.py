"""Sweeps over several processes or machines: what to launch, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from experiments import results
from experiments.common import console
from experiments.config.precision import AUTO
from experiments.config.schema import UserError
from experiments.config.sweep import run_configs

# launchers whose jobs run on the machine that starts them
LOCAL = ("BasicLauncher", "CoresLauncher", "LocalLauncher", "JoblibLauncher")


def is_local(target: str) -> bool:
    """Whether a launcher's jobs run on the machine that starts them.

    Args:
        target: The launcher's `_target_`.
    """
    return target.rpartition(".")[2] in LOCAL


def unfinished(
    launcher: Any, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Sequence[str]]:
    """The jobs whose runs are not finished; the sweep's summary checks those that are.

    Args:
        launcher: A launcher after its set-up.
        job_overrides: The overrides of each job.
        first: The place of the first job in the sweep.
    """
    config = launcher.config
    swept: Any = OmegaConf.to_container(config.hydra.overrides.task)
    if config.trainer.precision == AUTO or f"trainer.precision={AUTO}" in swept:
        return list(job_overrides)  # ids depend on the machine that a job will run on
    runs = run_configs(swept)[first : first + len(job_overrides)]
    done = {run["id"] for run in runs if _is_finished(config.paths.outputs, run["id"])}
    return [job for job, run in zip(job_overrides, runs, strict=True) if run["id"] not in done]


def _is_finished(outputs: str, id: str) -> bool:
    try:
        return results.finished_result(outputs, id) is not None
    except UserError:  # damaged: the job reports it
        return False


def wait_for(jobs: Sequence[Any]) -> Iterator[Any]:
    """Wait for jobs of submitit, and report those that are lost.

    Yields:
        What each job returned, in order, without the lost ones.
    """
    from submitit.core.utils import UncompletedJobError

    for job in jobs:
        try:
            yield job.results()[0]
        except UncompletedJobError:  # cancelled, killed, or out of time too often
            console.error(f"job {job.job_id} ({job.state}) is lost; its output: {job.paths.folder}")
