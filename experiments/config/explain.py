"""Where every value of a run comes from: `python -m experiments.run <overrides> --explain`.

Hydra composes a config from a list of files, of which a later one wins, and then applies the
command line. Here the same list is gone through once more, to note who set a key last.
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
    """A value of a run.

    Attributes:
        key: With dots, as on the command line.
        value: As the run takes it.
        source: The file that set it, relative to conf/, or "command line".
        written: What stands there, if it refers to another key: "${recipe.lora_alpha}".
    """

    key: str
    value: Any
    source: str
    written: str | None = None

    @property
    def section(self) -> str:
        """The part of the config; empty for a value that is a part of its own, like the seed."""
        return self.key.partition(".")[0] if "." in self.key else ""

    @property
    def text(self) -> str:
        """Key and value in one line, within the section."""
        key = self.key.removeprefix(f"{self.section}.")
        plain = isinstance(self.value, str)
        value = self.value.strip().replace("\n", "\\n") if plain else json.dumps(self.value)
        return f"{key}: {value} = {self.written}" if self.written else f"{key}: {value}"


@dataclass(frozen=True)
class Explanation:
    """The values of a run, and of how many runs of a sweep it is the first."""

    settings: list[Setting]
    runs: int


def explain(overrides: list[str]) -> Explanation:
    """Find the source of every value of a run.

    Args:
        overrides: As of `experiments.run`. Of a sweep the first run is explained.

    Raises:
        UserError: A name that does not exist.
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
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    for override in defaults.config_overrides:
        key = override.key_or_group
        source = COMMAND_LINE if key in given else sources[SWEPT + key]
        for name in [name for name in sources if name.startswith(f"{key}.")]:
            sources[name] = source  # of a mapping that the override may replace
        sources[key] = source
    written = dict(_leaves(OmegaConf.to_container(config)))
    values = dict(_leaves(OmegaConf.to_container(config, resolve=True)))
    settings = [Setting(key, value, _source(key, sources), _reference(written.get(key))) for key, value in values.items()]
    return Explanation(settings, len(jobs))


def explain_command(arguments: list[str]) -> None:
    """Carry out `python -m experiments.run <arguments>` with `--explain`: print, run nothing.

    Raises:
        UserError: An option that does not go with `--explain`, or a name that does not exist.
    """
    overrides = [each for each in arguments if each not in (OPTION, "-m", "--multirun")]
    for override in overrides:
        if override.startswith("-"):
            raise UserError(f"{override} does not go with {OPTION}, which takes overrides alone")
    show(explain(overrides))


def show(explanation: Explanation) -> None:
    """Print every value of a run with the file that set it; paths are those below conf/."""
    if explanation.runs > 1:
        console.info(f"The first of {explanation.runs} runs; task=, method=, ... name another.")
    for line in lines(explanation.settings, console.terminal.width):
        console.info(line)


def lines(settings: list[Setting], width: int) -> Iterator[str]:
    """The settings as YAML with their sources as comments; a value that does not fit is cut."""
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
    """The keys of a plain config with their values; lists count as values, missing ones do not."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif node != MISSING:
        yield name, node


def _file(default: ResultDefault) -> str:
    path = str(default.config_path).replace("/./", "/")
    return SCHEMA if path == SCHEMA else f"{path}.yaml"


def _source(key: str, sources: dict[str, str]) -> str:
    """Of a key, or of the mapping above it that was set as a whole."""
    while key not in sources:
        key = key.rpartition(".")[0]
    return sources[key]


def _reference(written: Any) -> str | None:
    return written if isinstance(written, str) and "${" in written else None
