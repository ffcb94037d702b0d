"""Give stored results new ids, computed from their recorded configs. Does not import torch.

Needed when a key or a name of the config changes, or the values that an id covers
(config.identity). A result is first converted to the current schema, then its folder is renamed.
Both steps are atomic, so the work can be interrupted anywhere and repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.common.files import atomic_write, run_lock
from experiments.config.identity import run_id
from experiments.config.schema import UserError
from experiments.results import archive, store
from experiments.results.migration import migrate_config
from experiments.results.result import Result, from_plain, parse, to_plain
from loradrop.checksums import loads, seal, unseal, write_json

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Change:
    """What happened to one stored run.

    Attributes:
        old: Its id before.
        new: Its id by its config.
        problem: Why it was left as it is; "" if it was not.
    """

    old: str
    new: str
    problem: str = ""

    @property
    def is_renamed(self) -> bool:
        """Whether the run has a new id."""
        return self.old != self.new and not self.problem


def rekey(outputs: str | Path) -> Iterator[Change]:
    """Give the runs in a folder, and the lines of an archive in it, current ids.

    Nothing is overwritten: a run whose new folder exists stays where it is.

    Yields:
        What happened to each run.

    Raises:
        UserError: If the archive has a line that is not a finished run, or two lines of one run.
    """
    for folder in sorted(path for path in Path(outputs, "runs").glob("*") if path.is_dir()):
        if (folder / store.RESULT).exists() or (folder / CONFIG).exists():
            yield _rekey_folder(folder)
    yield from _rekey_archive(Path(outputs))


def _rekey_folder(folder: Path) -> Change:
    with run_lock(folder, wait=False) as own:
        if not own:
            return Change(folder.name, folder.name, "a process is using it")
        try:
            new = _new_id(folder)
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            return Change(
                folder.name, folder.name, f"it cannot be read ({type(error).__name__}: {error})"
            )
        target = folder.with_name(new)
        if target != folder and target.exists():
            return Change(folder.name, new, f"{target} exists")
        _carry_over(folder, new)
        if target != folder:
            folder.rename(target)
        return Change(folder.name, new)


def _new_id(folder: Path) -> str:
    """Compute the id from the result or, for an interrupted run, from the config beside it."""
    if (folder / store.RESULT).exists():
        return run_id(parse((folder / store.RESULT).read_bytes()).config)
    return run_id(migrate_config(_read_config(folder / CONFIG)))


def _read_config(path: Path) -> dict[str, Any]:
    return unseal(yaml.safe_load(path.read_text(encoding="utf-8")))


def _carry_over(folder: Path, id: str) -> None:
    """Give the files of a run this id and the current keys."""
    path, config = folder / store.RESULT, folder / CONFIG
    if config.exists():
        before = _read_config(config)
        after = migrate_config(before)
        if after != before:
            with atomic_write(config) as file:
                file.write_text(yaml.safe_dump(seal(after), sort_keys=False), encoding="utf-8")
    if path.exists():
        before = loads(path.read_bytes())
        after = to_plain(from_plain({**before, "id": id}))
        if after != before:
            with atomic_write(path) as file:
                write_json(file, after, indent=1, allow_nan=False)


def _rekey_archive(folder: Path) -> Iterator[Change]:
    """Replace all lines at once: an archive is only a few small files."""
    before = archive.lines(folder)
    after: dict[str, dict[str, Any]] = {}
    changes = []
    for old, line in before.items():
        found = store.archived(folder, old)
        if not isinstance(found, Result):
            raise UserError(f"{folder}/*.jsonl: {old} is not a finished run; leave it out")
        new = run_id(found.config)
        if new in after:
            raise UserError(
                f"{folder}/*.jsonl: {old} is the same run as another line, {new}; "
                "leave one of them out"
            )
        after[new] = archive.line(found.model_copy(update={"id": new}), line.get(archive.ANALYSES))
        changes.append(Change(old, new))
    if after != before:
        archive.write(folder, after.values())
    yield from changes
