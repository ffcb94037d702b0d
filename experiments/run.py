"""The entry point: one config -> one result.

    python -m experiments.run backbone=roberta_base task=rte method=lora_drop seed=0
    python -m experiments.run -m method=lora,lora_drop seed=0,1,2

A finished run is skipped, an interrupted one goes on from its checkpoint, a failed one starts again.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import results, show
from experiments.config import CONF, UserError, build, check, run_id
from experiments.tracking import RunInfo, finish, log_result


@hydra.main(config_path=CONF, config_name="run", version_base="1.3")
def main(config: DictConfig) -> None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        id = run_id(config)
        result = results.read(config.paths.outputs, id)
        if result is not None and result["status"] == results.FINISHED:
            show.skipped(id, results.run_folder(config.paths.outputs, id))
        else:
            result = run(config, id)
        if not sweeping:
            show.summary(result)
    except UserError as error:
        if not sweeping:
            raise
        show.failed(str(error))  # the other runs of the sweep go on; its end names what is missing


def run(config: DictConfig, id: str) -> dict[str, Any]:
    """Carry out a run and write its result. UserError: a mistake in the config or its surroundings, or a failed run."""
    folder = results.run_folder(config.paths.outputs, id)
    show.started(id)
    try:
        check(config)
        _check_writable(folder)
        from experiments.setup import Setup  # torch and transformers: seconds that a mistake above does not cost

        setup = Setup(config)
        folder.mkdir(parents=True, exist_ok=True)
        make_logger = build("logger", config.logger, _partial_=True) if config.logger._target_ else None
        logger = make_logger and make_logger(RunInfo(id, folder, config))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"{id}: {' '.join(str(error).split())}") from error
    try:
        result = _train(setup, folder, logger, id)
    except Exception as error:
        results.write(
            config.paths.outputs, _record(config, id) | {"status": results.FAILED, "error": traceback.format_exc()}
        )
        message = f"{id} failed: {type(error).__name__}: {error} (traceback in {folder / 'result.json'})"
        raise UserError(message) from error
    finally:
        finish()
    return result


def _train(setup: Any, folder: Path, logger: Any, id: str) -> dict[str, Any]:
    from experiments import stages

    stages.quieten()
    record = _record(setup.config, id)
    with results.replacing(folder / "config.yaml") as path:
        OmegaConf.save(setup.config, path, resolve=True)
    probe = stages.RunProbe(setup, Path(setup.config.paths.cache) / "stage1")
    with setup.timed("prepare"):
        setup.method.prepare(setup.model, probe)
    with setup.timed("fit"):
        module, speed = stages.fit(setup, folder, logger)
    facts = stages.describe(setup, module) | speed | {"seconds": setup.seconds, "stage1_cached": probe.cached}
    stages.save(setup, module, folder)
    result = record | facts | {"status": results.FINISHED}
    if logger is not None:
        log_result(result)
    results.write(setup.config.paths.outputs, result)
    (folder / stages.CHECKPOINT).unlink(missing_ok=True)
    return result


def _record(config: DictConfig, id: str) -> dict[str, Any]:
    from experiments.stages import environment

    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "schema": 1,
        "id": id,
        "started": started,
        "config": OmegaConf.to_container(config, resolve=True),
        **environment(),
    }


def _check_writable(folder: Path) -> None:
    """OSError where the run could not write its result; leaves no folder behind that was not there."""
    existing = next(parent for parent in folder.resolve().parents if parent.exists())
    try:
        with results.replacing(existing / ".loradrop-probe"):
            pass
        (existing / ".loradrop-probe").unlink()
    except OSError as error:
        raise OSError(f"paths.outputs: cannot write to {existing}: {error.strerror}") from error


if __name__ == "__main__":
    main()
