"""One config -> one result: checked, set up, trained, recorded; by one process at a time."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import results
from experiments.common import console
from experiments.common.files import atomic_write, check_writable, is_locked, run_lock
from experiments.config.schema import UserError
from experiments.config.validation import check, instantiate_group
from experiments.results import Failure, Result
from experiments.runner.loggers import RunInfo, finishing, log_result


@finishing()
def run(config: DictConfig, id: str, wait: bool = True) -> Result | None:
    """Carry out a run and write its result. UserError: a mistake in the config or its surroundings, or a failed run.

    What another process carries out is waited for, or is None.
    """
    folder = results.run_folder(config.paths.outputs, id)
    if held_elsewhere(folder, id, wait):
        return None
    if (result := finished(config, id)) is not None:
        return result
    console.started(id)
    try:
        check(config)
        check_writable(folder)
        from experiments.runner.components import (
            RunComponents,  # torch and transformers: seconds that a mistake above does not cost
        )

        components = RunComponents(config)
        make_logger = instantiate_group("logger", config.logger, _partial_=True) if config.logger._target_ else None
        logger = make_logger and make_logger(RunInfo(id, folder, config))
        folder.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # a mistake in the config, a damaged file, a full GPU: no run of a sweep stops the others
        expected = isinstance(error, (ValueError, TypeError, OSError, ImportError))
        name = "" if expected else f"{type(error).__name__}: "
        raise UserError(f"{id}: {name}{' '.join(str(error).split())}") from error
    if held_elsewhere(folder, id, wait):  # by one that was set up at the same time
        return None
    with run_lock(folder, wait) as own:
        return (finished(config, id) or _record(components, folder, logger, id)) if own else None


def held_elsewhere(folder: Path, id: str, wait: bool) -> bool:
    """Is another process carrying it out, still when it has been waited for?"""
    if not is_locked(folder):
        return False
    if wait:
        console.info(f"{id} is being run by another process: waiting for it")
        with run_lock(folder):
            pass
    return not wait


def finished(config: DictConfig, id: str) -> Result | None:
    """The result of a finished run."""
    return results.finished_result(config.paths.outputs, id)


def _record(components: Any, folder: Path, logger: Any, id: str) -> Result:
    """Train, and write the result or the error."""
    from experiments.runner.environment import record

    facts = record(components.config, id)
    try:
        return _train(components, folder, logger, facts)
    except Exception as error:
        message = f"{id} failed: {type(error).__name__}: {error}"
        try:
            failure = Failure(**facts, error=traceback.format_exc())
            results.write(components.config.paths.outputs, failure)
        except OSError as full:
            raise UserError(f"{message}; nor could that be recorded: {full}") from error
        raise UserError(f"{message} (traceback in {folder / 'result.json'})") from error


def _train(components: Any, folder: Path, logger: Any, facts: dict[str, Any]) -> Result:
    from experiments.runner import training
    from experiments.runner.probe import RunProbe
    from experiments.runner.record import describe, save
    from experiments.runner.trainer import CHECKPOINT, quieten

    quieten()
    with atomic_write(folder / "config.yaml") as path:
        OmegaConf.save(components.config, path, resolve=True)
    probe = RunProbe(components, Path(components.config.paths.cache) / "stage1")
    module, speed = training.fit(components, folder, logger, probe)
    save(components, module, folder)
    times = {"seconds": components.seconds, "stage1_cached": probe.cached}
    result = Result(**facts, **describe(components, module), **speed, **times)
    results.write(components.config.paths.outputs, result)
    log_result(result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result
