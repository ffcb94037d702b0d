"""The entry point: one config -> one result.

    python -m experiments.run backbone=roberta_base task=rte method=lora_drop seed=0
    python -m experiments.run -m method=lora,lora_drop seed=0,1,2

A finished run is skipped; an interrupted or failed one is tried again, from its last checkpoint.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import results, show
from experiments.config import CONF, UserError, build, check, run_id
from experiments.files import check_writable, claimed, is_claimed, replacing
from experiments.tracking import RunInfo, finishing, log_result


@hydra.main(config_path=CONF, config_name="run", version_base="1.3")
def main(config: DictConfig) -> None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        id = run_id(config)
        folder = results.run_folder(config.paths.outputs, id)
        result = results.read(config.paths.outputs, id)
        if result is not None and result["status"] == results.FINISHED:
            show.skipped(id, folder)
        else:
            with finishing():
                result = run(config, id)
        show.line(result) if sweeping else show.summary(result, folder)
    except UserError as error:
        if not sweeping:
            raise
        show.failed(str(error))  # the other runs of the sweep go on; its end names what is missing
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into the latter
        show.failed(f"{id} was interrupted; the same command goes on with it")
        raise


def run(config: DictConfig, id: str) -> dict[str, Any]:
    """Carry out a run and write its result. UserError: a mistake in the config or its surroundings, or a failed run."""
    folder = results.run_folder(config.paths.outputs, id)
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
    if is_claimed(folder):
        show.said(f"{id} is being run by another process: waiting for it")
    with claimed(folder):
        result = results.read(config.paths.outputs, id)  # what the other one left
        if result is not None and result["status"] == results.FINISHED:
            return result
        return _record(setup, folder, logger, id)


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


if __name__ == "__main__":
    main()
