"""Check the names of optional files in conf/: Hydra ignores a misspelt one silently.

recipe/<backbone>/<task>.yaml            the recipe of a backbone on a task
recipe/<backbone>/<method>.yaml          a method's own values on the backbone
recipe/<backbone>/<task>-<method>.yaml   ... and on the task
recipe/<backbone>/_common.yaml           values that the backbone's files include
recipe/<backbone>/_common-<method>.yaml  ... and those for a method
recipe/_default/                         _common.yaml and <method>.yaml, for every backbone
experiment/<name>/<method>.yaml          a method's own values in an experiment
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from experiments.config.schema import CONF, UserError

COMMON, DEFAULT = "_common", "_default"


def check_files(conf: Path = Path(CONF)) -> None:
    """Raise UserError if conf/ has an optional file that no run looks for, such as a misspelt one.

    Args:
        conf: The folder that holds all groups.
    """
    backbones, tasks, methods = (group_options(conf / g) for g in ("backbone", "task", "method"))
    common = {COMMON} | methods
    recipes = common | tasks | {f"{of}-{method}" for of in (COMMON, *tasks) for method in methods}
    for name in sorted(group_options(conf / "recipe")):
        folder, _, file = name.partition("/")
        _check(f"conf/recipe/{folder}", "backbone", folder, backbones | {DEFAULT})
        expected = common if folder == DEFAULT else recipes
        _check(f"conf/recipe/{name}.yaml", "task, method or <task>-<method>", file, expected)
    experiments = {path.stem for path in (conf / "experiment").glob("*.yaml")}
    for name in sorted(group_options(conf / "experiment") - experiments):
        folder, _, file = name.partition("/")
        _check(f"conf/experiment/{folder}", "experiment", folder, experiments)
        _check(f"conf/experiment/{name}.yaml", "method", file, methods)


def group_options(group: Path) -> set[str]:
    """The names of a config group's files; those in subfolders as `folder/name`."""
    return {path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")}


def _check(path: str, kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"{path}: no run looks for it, as '{name}' is no {kind}.{hint}")
