"""The page of `experiments.report`: its parts, and the template that they fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from experiments import results
from experiments.common.console import first_line
from experiments.config.catalog import Experiment
from experiments.config.schema import UserError
from experiments.reporting.charts import Chart, charts, own_figure
from experiments.results import printing

MINI = " --mini"  # behind the name of an experiment, as on the command line
TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass
class Section:
    """What the page says of an experiment.

    Attributes:
        name: The heading.
        entry: The experiment. None: runs that belong to none.
        command: The command that makes its runs; "" if there is none.
        status: A row of the table of the status.
        frame: Its runs, from `results.load`.
        tables: For each table: its caption, the table and the lines below it, as HTML.
        notes: What a reader should know.
        charts: Its charts; see `draw`.
    """

    name: str
    entry: Experiment | None
    command: str
    status: dict[str, Any]
    frame: pd.DataFrame
    tables: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The name of its heading in links."""
        return self.name.replace(MINI, "-mini").replace(" ", "-")

    @property
    def is_mini(self) -> bool:
        """Whether its runs are on built-in models, of which the paper says nothing."""
        return self.name.endswith(MINI)

    @property
    def has_table(self) -> bool:
        """Whether it is about scores, not about one figure."""
        return self.entry is None or self.entry.has_table

    @property
    def finished(self) -> pd.DataFrame:
        """Its finished runs."""
        return self.frame[self.frame.status == results.FINISHED]

    @property
    def percent(self) -> int:
        """How many of its runs are finished."""
        return 100 * len(self.finished) // max(1, len(self.frame))

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """Status, id and first line of the error of each run that has one."""
        wrong = self.frame[self.frame.error.notna()]
        return [(run.status, run.id, first_line(run.error)) for run in wrong.itertuples()]

    def add_table(self, caption: str, text: str) -> None:
        """Add a table.

        Args:
            caption: What it shows.
            text: From reporting.tables, in HTML.
        """
        table, end, below = text.partition("</table>")
        self.tables.append((caption, table + end, below))

    def draw(self, outputs: str) -> None:
        """Draw its charts, and note what hinders one."""
        name = self.entry.name if self.entry else ""
        if self.entry and self.entry.figure:
            try:
                self.charts += own_figure(self.frame, outputs, self.entry.figure)
            except UserError as error:
                self.notes.append(f"{error}: python -m experiments.figure {self.name}")
        self.charts += charts(self.finished, name, self.has_table)
        if mix := printing.mixes(self.finished):
            self.notes.append(mix)


def render(sections: list[Section], outputs: str, start: str) -> str:
    """Fill the template.

    Args:
        sections: The parts of the page, drawn.
        outputs: The folder of results.
        start: A command that makes first results.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    ids = {id for section in sections for id in section.finished.id}
    days = sorted(run.started[:10] for section in sections for run in section.finished.result)
    columns = dict.fromkeys(key for section in sections for key in section.status)
    columns.pop("experiment", None)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        sections=sections,
        columns=columns,
        outputs=outputs,
        start=start,
        runs=len(ids),
        days=days,
    )
