"""The heads of conf/experiment/*.yaml: what an experiment is, what makes it, and how it runs on built-in models.

A head says in its lines what the experiment is, then Command, Runs, Expected and, where it also runs on built-in models,
Mini: the overrides that do so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment"
FIELDS = ("Command", "Runs", "Expected", "Mini")


@dataclass(frozen=True)
class Item:
    """The head of an experiment's YAML."""

    name: str
    title: str
    fields: dict[str, str]

    @property
    def mini(self) -> list[str]:
        """The overrides that carry it out on built-in models; none: it has no such form."""
        return self.fields.get("Mini", "").split()


def item(name: str) -> Item:
    """Of one experiment."""
    lines = [line[2:] for line in (EXPERIMENTS / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    title, fields = [], {}
    for line in lines[1:]:
        key, colon, text = line.partition(": ")
        if colon and key in FIELDS:
            fields[key] = text
        elif not fields:
            title.append(line)
    return Item(name, " ".join(title), fields)


def names() -> list[str]:
    """Of all experiments: tables first, then figures, then the others."""
    found = [path.stem for path in EXPERIMENTS.glob("*.yaml")]
    return sorted(found, key=lambda name: (not name.startswith("table"), not name.startswith("figure"), _natural(name)))


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
