"""Show where every value of a run comes from: `python -m experiments.run ... --explain`.

Hydra composes a config from a list of files, in which later files win, and then applies the command
line. This module goes through the same list and notes which file set each key last.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.default_element import ResultDefault
from hydra.types import RunMode
from omegaconf import MISSING, OmegaConf

from experiments.common import console
from experiments.config import sweep
from experiments.config.schema import UserError

OPTION = "--explain"
COMMAND_LINE = "command line"
SWEPT = "hydra.sweeper.params."
SCHEMA = "schema"  # the dataclasses' own defaults
BETWEEN = "  # "


@dataclass(frozen=True)
class Setting:
    """One value of a run.

    Attributes:
        key: The dotted key, as on the command line.
        value: The value that the run uses.
        source: The file that set it, relative to conf/, or "command line".
        written: The reference to another key that is written there, if any:
            "${recipe.lora_alpha}".
    """

    key: str
    value: Any
    source: str
    written: str | None = None

    @property
    def section(self) -> str:
        """The first part of the key; empty for a top-level value, like the seed."""
        return self.key.partition(".")[0] if "." in self.key else ""

    @property
    def text(self) -> str:
        """Key and value in one line, without the section."""
        key = self.key.removeprefix(f"{self.section}.")
        plain = isinstance(self.value, str)
        value = self.value.strip().replace("\n", "\\n") if plain else json.dumps(self.value)
        return f"{key}: {value} = {self.written}" if self.written else f"{key}: {value}"


@dataclass(frozen=True)
class Explanation:
    """The values of the first run of a sweep, and the number of its runs."""

    settings: list[Setting]
    runs: int


def explain(overrides: list[str]) -> Explanation:
    """Find the source of every value of a run.

    Args:
        overrides: The overrides of `experiments.run`. For a sweep, the first run is explained.

    Raises:
        UserError: If a name does not exist.
    """
    sweep.check_names(overrides)
    with sweep.config_loader() as loader:
        jobs = list(sweep.jobs(overrides, loader))
        chosen = [sweep.text(override) for override in jobs[0]]
        config = compose("run", chosen)
        defaults = loader.compute_defaults_list("run", chosen, RunMode.RUN)
        sources: dict[str, str] = {}
        for default in defaults.defaults:
            loaded = loader.repository.load_config(default.config_path)
            for key, _ in _leaves(OmegaConf.to_container(loaded.config), default.package or ""):
                sources[key] = _file(default)
        given = sweep.keys(overrides, loader)
    for override in defaults.config_overrides:
        key = override.key_or_group
        source = COMMAND_LINE if key in given else sources[SWEPT + key]
        value = override.value()  # a mapping is merged into the one that is there
        for name, _ in _leaves(value, key) if isinstance(value, dict) else [(key, None)]:
            sources[name] = source
    written = dict(_leaves(OmegaConf.to_container(config)))
    values = dict(_leaves(OmegaConf.to_container(config, resolve=True)))
    settings = [
        Setting(key, value, _source(key, sources), _reference(written.get(key)))
        for key, value in values.items()
    ]
    return Explanation(settings, len(jobs))


def explain_command(arguments: list[str]) -> None:
    """Explain the run that `python -m experiments.run <arguments>` would start.

    Raises:
        UserError: If there is another option besides `--explain`, or a name does not exist.
    """
    overrides = [each for each in arguments if each not in (OPTION, "-m", "--multirun")]
    for override in overrides:
        if override.startswith("-"):
            raise UserError(f"{override} does not go with {OPTION}, which takes overrides alone")
    show(explain(overrides))


def show(explanation: Explanation) -> None:
    """Print every value of a run with the file that set it, relative to conf/."""
    if explanation.runs > 1:
        console.info(f"The first of {explanation.runs} runs; task=, method=, ... name another.")
    for line in lines(explanation.settings, console.terminal.width):
        console.info(line)


def lines(settings: list[Setting], width: int) -> Iterator[str]:
    """Format settings as YAML with their sources as comments.

    Args:
        settings: The settings.
        width: The width of a line; longer values are cut off.
    """
    for section, group in itertools.groupby(settings, lambda setting: setting.section):
        members = list(group)
        if section:
            yield f"{section}:"
        left = [f"  {each.text}" if section else each.text for each in members]
        room = width - max(len(each.source) for each in members) - len(BETWEEN)
        room = min(room, max(map(len, left)))
        for text, setting in zip(left, members, strict=True):
            cut = text if len(text) <= room else text[: room - 1] + "…"
            yield f"{cut:{room}}{BETWEEN}{setting.source}"


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The keys and values of a plain config. Lists are values; missing values are left out."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif node != MISSING:
        yield name, node


def _file(default: ResultDefault) -> str:
    path = str(default.config_path).replace("/./", "/")
    return SCHEMA if path == SCHEMA else f"{path}.yaml"


def _source(key: str, sources: dict[str, str]) -> str:
    """The source of a key, or of the mapping around it that was set as a whole."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key, SCHEMA)


def _reference(written: Any) -> str | None:
    return written if isinstance(written, str) and "${" in written else None
