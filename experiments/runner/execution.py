"""Turn one config into one result: check, claim, set up, train, record."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import results
from experiments.common import console
from experiments.common.files import atomic_write, check_writable, remove_leftovers
from experiments.config.identity import run_id
from experiments.config.precision import resolve_precision
from experiments.config.schema import UserError
from experiments.config.validation import CHANGED, build, check_values
from experiments.results import Failure, Result
from experiments.results.fingerprints import difference, remember
from experiments.runner import processes
from experiments.runner.claim import Owner, claim_run
from experiments.runner.loggers import RunInfo, finishing, log_result
from loradrop.checksums import seal

if TYPE_CHECKING:
    from experiments.runner.components import RunComponents

MISTAKES = (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        id: Its id.
        outputs: The folder of results.
        result: Its result; None if another process is carrying it out.
        again: Whether it was finished before.
    """

    id: str
    outputs: str
    result: Result | None
    again: bool


def run(config: DictConfig, wait: bool = True) -> Outcome:
    """Carry out a run and write its result, unless it is finished or another process has it.

    Args:
        config: The composed config of the run.
        wait: Whether to wait for another process that is carrying the run out.

    Raises:
        UserError: If the config or its environment has a mistake, or the run failed.
    """
    with _one_line("the config"):
        note = resolve_precision(config)
        check_values(config)
        id = run_id(config)
        in_group = processes.join(config)
    outputs, plain = config.paths.outputs, _plain(config)

    def redo(result: Result) -> bool:
        return config.rerun == CHANGED and difference(plain, result, plain["paths"]) is not None

    if processes.wanted(config) > 1 and not in_group:
        with _one_line(id):
            found = results.finished_result(outputs, id)
            if found is None or redo(found):
                return _in_processes(config, id, wait)
    with _one_line(id), processes.in_first(lambda: claim_run(outputs, id, wait, redo)) as claim:
        if claim.result is not None and (
            changed := difference(plain, claim.result, plain["paths"])
        ):
            raise UserError(f"{id}: {changed}")
        if claim.owner is not Owner.YOU:
            return Outcome(id, outputs, claim.result, again=claim.result is not None)
        return Outcome(id, outputs, _carry_out(config, id, note), again=False)


def _in_processes(config: DictConfig, id: str, wait: bool) -> Outcome:
    """Carry out a run in several processes of this machine."""
    processes.start(run, processes.wanted(config), config, wait)
    outputs = config.paths.outputs
    return Outcome(id, outputs, results.finished_result(outputs, id), again=False)


@finishing()
def _carry_out(config: DictConfig, id: str, note: str | None) -> Result:
    """Set up a claimed run, train it, and record the result or the error of the training."""
    check_writable(Path(config.paths.cache), "paths.cache")
    built = build(config)
    if processes.rank() == 0:
        console.started(id)
        if note is not None:
            console.info(note)
    # imported late: a mistake in the config need not wait for transformers
    from experiments.runner.components import RunComponents
    from experiments.runner.environment import record
    from experiments.runner.failures import anonymous, reason

    components = RunComponents(built)
    plain, first = _plain(config), processes.rank() == 0  # the first one writes
    if first:
        remember(plain["task"], plain["paths"], components.data.fingerprint)
    folder = results.run_folder(config.paths.outputs, id)
    facts = record(config, id)
    logger = first and built.make_logger and built.make_logger(RunInfo(id, folder, facts))
    try:
        return _train(components, folder, logger, facts)
    except Exception as error:
        message = f"{id} failed: {reason(error)}"
        try:
            text = anonymous(traceback.format_exc(), plain["paths"])
            failure = Failure(**facts, error=text)
            if first:
                results.write(config.paths.outputs, failure)
        except OSError as full:
            raise UserError(f"{message}; nor could that be recorded: {full}") from error
        raise UserError(f"{message} (traceback in {folder / 'result.json'})") from error


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


@contextmanager
def _one_line(subject: str) -> Iterator[None]:
    """Turn any error into a UserError of one line, so that a run does not stop its sweep."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a mistake in the config, a damaged file, a full GPU
        name = "" if isinstance(error, MISTAKES) else f"{type(error).__name__}: "
        raise UserError(f"{subject}: {name}{' '.join(str(error).split())}") from error


def _train(components: RunComponents, folder: Path, logger: Any, facts: dict[str, Any]) -> Result:
    from experiments.runner import training
    from experiments.runner.probe import RunProbe
    from experiments.runner.record import describe, save
    from experiments.runner.trainer import CHECKPOINT, PREPARED, quieten

    quieten()
    first = processes.rank() == 0
    if first:
        remove_leftovers(folder)
        text = yaml.safe_dump(seal(facts["config"]), sort_keys=False)
        with atomic_write(folder / "config.yaml") as path:
            path.write_text(text, encoding="utf-8")
    probe = RunProbe(components, Path(components.config.paths.cache) / "stage1", folder, logger)
    module, speed = training.fit(components, folder, logger, probe)
    if first:
        results.discard(components.config.paths.outputs, facts["id"])
        save(components, module, folder)
    times: dict[str, Any] = {"seconds": components.seconds, "stage1_cached": probe.cached}
    result = Result(**facts, **describe(components, module), **speed, **times)
    if first:
        results.write(components.config.paths.outputs, result)
        log_result(result)
        for checkpoint in (CHECKPOINT, PREPARED):
            (folder / checkpoint).unlink(missing_ok=True)
    return result
