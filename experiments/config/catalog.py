"""The catalogue of experiments: reads experiments/catalog.yaml and checks every key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from experiments.config.schema import CONF, UserError

CATALOG = Path(__file__).parents[1] / "catalog.yaml"
EXPERIMENTS = Path(CONF) / "experiment"
KINDS = TABLE, FIGURE, STUDY = ("table", "figure", "study")


@dataclass(frozen=True)
class Figure:
    """The figure of an experiment.

    Attributes:
        kind: A key of experiments.reporting.figures.FIGURES.
        arguments: Arguments of the two functions of that kind.
    """

    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Paired:
    """The paired tests below the table of a study.

    Attributes:
        key: The key of the config whose values are compared, such as method.criterion.
        against: The value that all others are compared with.
    """

    key: str
    against: str


@dataclass(frozen=True)
class Experiment:
    """One entry of catalog.yaml.

    Attributes:
        name: The name on the command line.
        title: What it shows, and where in the paper.
        kind: One of KINDS.
        expected: The scores to expect.
        cost: The wall time, if it was noted by hand. None: GPU hours are estimated.
        mini: Overrides for the mini form, on built-in models; empty if there is none.
        figure: Its figure, if it has one of its own.
        paired: What its table tests in pairs of task and seed, if anything.
    """

    name: str
    title: str
    kind: str
    expected: str
    cost: str | None = None
    mini: tuple[str, ...] = ()
    figure: Figure | None = None
    paired: Paired | None = None

    @property
    def has_table(self) -> bool:
        """Whether `experiments.reproduce` makes a table of it."""
        return self.kind != FIGURE

    def overrides(self, mini: bool = False) -> list[str]:
        """The overrides of `experiments.run` that make its runs.

        Args:
            mini: Whether to run the mini form, on built-in models.

        Raises:
            UserError: If it has no mini form.
        """
        if mini and not self.mini:
            raise UserError(f"{self.name} has no mini form; leave it out")
        return [f"experiment={self.name}", *(self.mini if mini else ())]


def names() -> list[str]:
    """The names of all experiments, in the order of catalog.yaml."""
    return list(catalog())


def experiment(name: str) -> Experiment:
    """Look up an experiment by name.

    Raises:
        UserError: If there is no such experiment, or catalog.yaml has a mistake.
    """
    if name not in catalog():
        raise UserError(f"there is no experiment {name}.{hint(name, catalog())}")
    return catalog()[name]


@cache
def catalog() -> Mapping[str, Experiment]:
    """All entries of catalog.yaml, keyed by name."""
    return MappingProxyType(read_catalog(CATALOG))


def read_catalog(path: Path) -> dict[str, Experiment]:
    """Read a catalogue file.

    Returns:
        Its entries, keyed by name.

    Raises:
        UserError: If an entry is invalid; the message names the entry and the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path.name}: {error}") from error
    entries = content.get("experiments") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise UserError(f"{path.name}: there must be a mapping `experiments`")
    return {name: _entry(f"{path.name}: {name}", name, entry) for name, entry in entries.items()}


def _entry(where: str, name: str, entry: Any) -> Experiment:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: the entry must be a mapping, not {entry!r}")
    fields = {field.name: field for field in dataclasses.fields(Experiment) if field.name != "name"}
    for key in entry:
        if key not in fields:
            raise UserError(f"{where}.{key}: there is no such key.{hint(str(key), fields)}")
    for key, field in fields.items():
        if key not in entry and field.default is MISSING:
            raise UserError(f"{where}.{key} is missing")
    for key in {"title", "kind", "expected", "cost"} & entry.keys():
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise UserError(f"{where}.{key} must be a text, not {entry[key]!r}")
    if entry["kind"] not in KINDS:
        raise UserError(f"{where}.kind must be one of {', '.join(KINDS)}, not {entry['kind']!r}")
    if entry["kind"] == FIGURE and "figure" not in entry:
        raise UserError(f"{where}.figure is missing: its kind is {FIGURE}")
    converted: dict[str, Any] = {}
    if "mini" in entry:
        converted["mini"] = _overrides(f"{where}.mini", entry["mini"])
    if "figure" in entry:
        converted["figure"] = _figure(f"{where}.figure", entry["figure"])
    if "paired" in entry:
        converted["paired"] = _paired(f"{where}.paired", entry["paired"])
    return Experiment(name, **(entry | converted))


def _overrides(where: str, mini: Any) -> tuple[str, ...]:
    """Turn a mapping into overrides; a list of values becomes a sweep."""
    if not isinstance(mini, dict) or not mini:
        raise UserError(f"{where} must be a mapping of keys to values, not {mini!r}")
    overrides = []
    for key, value in mini.items():
        values = value if isinstance(value, list) else [value]
        if not values or any(not isinstance(each, (str, int, float)) for each in values):
            raise UserError(f"{where}.{key} must be a value or a list of values, not {value!r}")
        texts = (str(each).lower() if isinstance(each, bool) else str(each) for each in values)
        overrides.append(f"{key}={','.join(texts)}")
    return tuple(overrides)


def _figure(where: str, figure: Any) -> Figure:
    if not isinstance(figure, dict) or not isinstance(figure.get("kind"), str):
        raise UserError(f"{where} must be a mapping with the key `kind`, not {figure!r}")
    return Figure(figure["kind"], {key: value for key, value in figure.items() if key != "kind"})


def _paired(where: str, paired: Any) -> Paired:
    keys = {"key", "against"}
    if not isinstance(paired, dict) or paired.keys() != keys:
        raise UserError(f"{where} must be a mapping with the keys key and against, not {paired!r}")
    return Paired(str(paired["key"]), str(paired["against"]))


def hint(name: str, known: Iterable[str]) -> str:
    """End an error message with the known name that was probably meant, or with all names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]}?" if close else f" There are: {', '.join(known)}."
