"""Sweeps over several processes or machines: what to launch, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig

from experiments import results
from experiments.common import console
from experiments.config.identity import run_id
from experiments.config.precision import AUTO
from experiments.config.sweep import compose_jobs
from experiments.config.validation import CHANGED

# launchers whose jobs run on the machine that starts them
LOCAL = ("BasicLauncher", "CoresLauncher", "LocalLauncher", "JoblibLauncher")


_reported: set[str] = set()  # reasons, in this process


def report(message: str) -> None:
    """Print why a run of a sweep did not start or failed; what holds for all runs only once."""
    reason = message.partition(": ")[2]  # before it stands the run
    if reason not in _reported:
        _reported.add(reason)
        console.error(message)


def is_local(target: str) -> bool:
    """Whether a launcher's jobs run on the machine that starts them.

    Args:
        target: The launcher's `_target_`.
    """
    return target.rpartition(".")[2] in LOCAL


def unfinished(job_overrides: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The jobs whose runs are not finished; the sweep's summary checks those that are.

    Args:
        job_overrides: The overrides of each job.
    """
    configs = compose_jobs(job_overrides)
    return [
        job
        for job, config in zip(job_overrides, configs, strict=True)
        # what `auto` means, and so the id, depends on the machine that the job will run on
        if config.trainer.precision == AUTO or config.rerun == CHANGED or not _is_finished(config)
    ]


def _is_finished(config: DictConfig) -> bool:
    try:
        return results.finished_result(config.paths.outputs, run_id(config)) is not None
    except Exception:  # a mistake in the config, or a damaged result: the job reports it
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
