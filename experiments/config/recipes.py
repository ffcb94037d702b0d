"""The names that files of conf/recipe may have. Hydra passes over a file that no run looks for.

    <backbone>/<task>.yaml             the recipe of a backbone on a task
    <backbone>/<method>.yaml           what a method has of its own on the backbone
    <backbone>/<task>-<method>.yaml    ... and there on a task
    <backbone>/_common.yaml, _common-<method>.yaml    shared values, which these files include
    _default/                          the same for every backbone: _common.yaml and <method>.yaml
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from experiments.config.schema import CONF, UserError

COMMON, DEFAULT = "_common", "_default"


def check_recipe_files(conf: Path = Path(CONF)) -> None:
    """Raise UserError if conf/recipe has a file that no run looks for, such as a misspelt one.

    Args:
        conf: The folder of all groups.
    """
    backbones, tasks, methods = (names(conf / group) for group in ("backbone", "task", "method"))
    shared = {COMMON} | methods
    expected = shared | tasks | {f"{of}-{method}" for of in (COMMON, *tasks) for method in methods}
    for file in sorted((conf / "recipe").rglob("*.yaml")):
        folder, _, name = file.relative_to(conf / "recipe").with_suffix("").as_posix().partition("/")
        if folder not in {DEFAULT} | backbones:
            raise UserError(
                f"conf/recipe/{folder}: there is no backbone of this name.{_hint(folder, backbones)}"
            )
        known = shared if folder == DEFAULT else expected
        if name not in known:
            raise UserError(
                f"conf/recipe/{folder}/{name}.yaml: no run looks for this file; its name must be "
                f"<task>, <method> or <task>-<method>.{_hint(name, known)}"
            )


def names(group: Path) -> set[str]:
    """The options of a config group, those in subfolders as `folder/name`."""
    return {path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")}


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]}?" if close else ""
