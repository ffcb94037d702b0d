"""Compare the data and weights of a finished run with those that are here now. Free of torch.

Fingerprints of rows are cached in <paths.cache>/fingerprints until the files of a task change. Data
and weights from the Hub have a pinned revision, which the id covers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import loradrop
from experiments.common.files import atomic_write
from experiments.config.identity import digest, parts_of
from experiments.config.validation import instantiate_group
from experiments.results.migration import UNKNOWN
from experiments.results.result import Result
from loradrop.checksums import read_json, write_json
from loradrop.hub import files_fingerprint, find_local, model_folder

TASKS = Path(loradrop.__file__).parent / "tasks"  # the code that generates or reads rows
HASH = re.compile(r"[0-9a-f]{16}")  # a fingerprint of files, not a revision
Stamps = tuple[tuple[str, int, int], ...]  # path, size and time of change of each file


def difference(config: Mapping[str, Any], result: Result, paths: Mapping[str, Any]) -> str | None:
    """Describe what has changed since a run was finished, and the remedy, in one line.

    Args:
        config: The config of the run, plain.
        result: The result of the run.
        paths: The folders on this machine: the keys of `paths` in a config.

    Returns:
        None if nothing has changed, or data and weights are not on this machine.
    """
    changed = []
    weights = HASH.fullmatch(result.weights_fingerprint) and _weights(config, paths)
    if weights and weights != result.weights_fingerprint:
        changed += [f"weights of {result.backbone}"]
    rows = result.data_fingerprint != UNKNOWN and _rows(config["task"], paths)
    if rows and rows != result.data_fingerprint:
        changed += [f"rows of task {result.task}"]
    if not changed:
        return None
    return (
        f"finished, but with other {' and '.join(changed)} than those here now: "
        "name another paths.outputs, or run it again with rerun=changed"
    )


def remember(task: Mapping[str, Any], paths: Mapping[str, Any], fingerprint: str) -> None:
    """Cache the fingerprint of a task's rows.

    Args:
        task: The config of the task.
        paths: The folders on this machine.
        fingerprint: Of the rows as they are now.
    """
    path = _remembered(task, paths)
    if path is not None:
        with suppress(OSError), atomic_write(path) as file:  # only a cache
            write_json(file, {"rows": fingerprint})


def _weights(config: Mapping[str, Any], paths: Mapping[str, Any]) -> str | None:
    hub_id = config["backbone"].get("hub_id")
    folder = hub_id and model_folder(hub_id, _path(paths["models"]))
    return _weights_of(folder, _stamps(folder, "*")) if folder else None


@cache
def _weights_of(folder: Path, stamps: Stamps) -> str:
    return files_fingerprint(folder)


def _rows(task: Mapping[str, Any], paths: Mapping[str, Any]) -> str | None:
    path = _remembered(task, paths)
    if path is None:
        return None
    with suppress(OSError, ValueError, KeyError):  # not there, or damaged
        return read_json(path)["rows"]
    try:
        rows = instantiate_group("task", OmegaConf.create(dict(task))).splits(_path(paths["data"]))
    except (OSError, ValueError):  # without the rows there is nothing to compare
        return None
    fingerprint = rows.fingerprint()
    remember(task, paths, fingerprint)
    return fingerprint


def _remembered(task: Mapping[str, Any], paths: Mapping[str, Any]) -> Path | None:
    """The cache file for the current state of a task's files; None for rows from the Hub."""
    files = []
    for _, part in parts_of("task", task):
        local = find_local(_path(paths["data"]), part["name"], str(part.get("official")))
        if local is None and {"hub_id", "url", "official"} & set(part):
            return None
        files += [_stamps(local, "**/*")] if local else []
    stamp = {"task": task, "code": _code(), "files": files}
    return Path(paths["cache"]) / "fingerprints" / f"{task['name']}-{digest(stamp)}.json"


@cache
def _code() -> Stamps:
    return _stamps(TASKS, "**/*.py")


def _stamps(folder: Path, pattern: str) -> Stamps:
    found = glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (it follows links)
    files = (path for name in sorted(found) if (path := folder / name).is_file())
    return tuple((str(file), (s := file.stat()).st_size, s.st_mtime_ns) for file in files)


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)
