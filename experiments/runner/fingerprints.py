"""Check that a finished run used the data and weights that are here now. Does not import torch.

Fingerprints are cached in <paths.cache>/fingerprints until the files of a task change. Data and
weights from the Hub have a pinned revision, which the id covers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import loradrop
from experiments.common.files import atomic_write
from experiments.config.identity import digest
from experiments.config.validation import instantiate_group
from experiments.results import Result, run_folder
from loradrop.checksums import read_json, write_json
from loradrop.hub import files_fingerprint, find_local, model_folder

TASKS = Path(loradrop.__file__).parent / "tasks"  # the code that generates or reads rows
HASH = re.compile(r"[0-9a-f]{16}")  # a fingerprint of files, not a revision


def difference(config: DictConfig, result: Result) -> str | None:
    """Describe what has changed since a run was finished, and the remedy, in one line.

    Args:
        config: The config of the run, with this machine's paths.
        result: The result of the run.

    Returns:
        None if nothing has changed, or data and weights are not on this machine.
    """
    weights = _weights(config)
    if (
        weights
        and HASH.fullmatch(result.weights_fingerprint)
        and weights != result.weights_fingerprint
    ):
        return _message(config, result, f"weights of {config.backbone.hub_id}")
    data = _data(config)
    if data and data != result.data_fingerprint:
        return _message(config, result, f"rows of task {config.task.name}")
    return None


def remember(config: DictConfig, fingerprint: str) -> None:
    """Cache the fingerprint of a task's rows.

    Args:
        config: The config of the run.
        fingerprint: Of the rows as they are now.
    """
    path = _remembered(config)
    if path is not None:
        with suppress(OSError), atomic_write(path) as file:  # only a cache
            write_json(file, {"rows": fingerprint})


def _message(config: DictConfig, result: Result, what: str) -> str:
    folder = run_folder(config.paths.outputs, result.id)
    return (
        f"{result.id} is finished, but with other {what} than those here now: "
        f"name another paths.outputs, or delete {folder} to run it again"
    )


def _weights(config: DictConfig) -> str | None:
    hub_id = config.backbone.get("hub_id")
    folder = hub_id and model_folder(hub_id, _path(config.paths.models))
    return files_fingerprint(folder) if folder else None


def _data(config: DictConfig) -> str | None:
    path = _remembered(config)
    if path is None:
        return None
    with suppress(OSError, ValueError, KeyError):  # not there, or damaged
        return read_json(path)["rows"]
    try:
        rows = instantiate_group("task", config.task).load(_path(config.paths.data))
    except (OSError, ValueError):  # without the rows there is nothing to compare
        return None
    fingerprint = rows.fingerprint()
    remember(config, fingerprint)
    return fingerprint


def _remembered(config: DictConfig) -> Path | None:
    """The cache file for the current state of a task's files; None for rows from the Hub."""
    task: Any = OmegaConf.to_container(config.task, resolve=True)
    local = find_local(_path(config.paths.data), task["name"], str(task.get("official")))
    if local is None and {"hub_id", "url", "official"} & set(task):
        return None
    stamp = {"task": task, "code": list(_stamps(TASKS, "*.py"))}
    stamp |= {"files": list(_stamps(local, "*")) if local else []}
    return Path(config.paths.cache) / "fingerprints" / f"{task['name']}-{digest(stamp)}.json"


def _stamps(folder: Path, pattern: str) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            status = path.stat()
            yield str(path), status.st_size, status.st_mtime_ns


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)
