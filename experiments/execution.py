"""One config -> one result: checked, set up, trained, recorded; by one process at a time."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import results, show
from experiments.config import UserError, build, check
from experiments.files import check_writable, claimed, is_claimed, replacing
from experiments.tracking import RunInfo, finishing, log_result


@finishing()
def run(config: DictConfig, id: str, wait: bool = True) -> dict[str, Any] | None:
    """Carry out a run and write its result. UserError: a mistake in the config or its surroundings, or a failed run.

    What another process carries out is waited for, or is None.
    """
    folder = results.run_folder(config.paths.outputs, id)
    if _taken(folder, id, wait):
        return None
    if (result := finished(config, id)) is not None:
        return result
    show.started(id)
    try:
        check(config)
        check_writable(folder)
        from experiments.setup import Setup  # torch and transformers: seconds that a mistake above does not cost

        setup = Setup(config)
        make_logger = build("logger", config.logger, _partial_=True) if config.logger._target_ else None
        logger = make_logger and make_logger(RunInfo(id, folder, config))
        folder.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # a mistake in the config, a damaged file, a full GPU: no run of a sweep stops the others
        expected = isinstance(error, (ValueError, TypeError, OSError, ImportError))
        name = "" if expected else f"{type(error).__name__}: "
        raise UserError(f"{id}: {name}{' '.join(str(error).split())}") from error
    if _taken(folder, id, wait):  # by one that was set up at the same time
        return None
    with claimed(folder, wait) as own:
        return (finished(config, id) or _record(setup, folder, logger, id)) if own else None


def _taken(folder: Path, id: str, wait: bool) -> bool:
    """Is another process carrying it out, still when it has been waited for?"""
    if not is_claimed(folder):
        return False
    if wait:
        show.said(f"{id} is being run by another process: waiting for it")
        with claimed(folder):
            pass
    return not wait


def finished(config: DictConfig, id: str) -> dict[str, Any] | None:
    """The result of a finished run."""
    result = results.read(config.paths.outputs, id)
    return result if result is not None and result["status"] == results.FINISHED else None


def _record(setup: Any, folder: Path, logger: Any, id: str) -> dict[str, Any]:
    """Train, and write the result or the error."""
    from experiments.environment import record

    facts = record(setup.config, id)
    try:
        return _train(setup, folder, logger, facts)
    except Exception as error:
        message = f"{id} failed: {type(error).__name__}: {error}"
        try:
            failure = {"status": results.FAILED, "error": traceback.format_exc()}
            results.write(setup.config.paths.outputs, facts | failure)
        except OSError as full:
            raise UserError(f"{message}; nor could that be recorded: {full}") from error
        raise UserError(f"{message} (traceback in {folder / 'result.json'})") from error


def _train(setup: Any, folder: Path, logger: Any, facts: dict[str, Any]) -> dict[str, Any]:
    from experiments import stages

    stages.quieten()
    with replacing(folder / "config.yaml") as path:
        OmegaConf.save(setup.config, path, resolve=True)
    probe = stages.RunProbe(setup, Path(setup.config.paths.cache) / "stage1")
    module, speed = stages.fit(setup, folder, logger, probe)
    stages.save(setup, module, folder)
    times = {"seconds": setup.seconds, "stage1_cached": probe.cached}
    result = facts | stages.describe(setup, module) | speed | times | {"status": results.FINISHED}
    results.write(setup.config.paths.outputs, result)
    log_result(result)
    (folder / stages.CHECKPOINT).unlink(missing_ok=True)
    return result
