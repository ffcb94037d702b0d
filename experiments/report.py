"""Build a page of results: progress, tables beside the paper's, importances, scores and curves.

python -m experiments.report                        what outputs/ has: outputs/report.html
python -m experiments.report table7 demo            these two experiments
python -m experiments.report --mini task=mini_sentiment    mini forms, as far as they have this task
python -m experiments.report paths.outputs=experiments/evidence --to public/index.html

The page is one file without any reference to another, so it can be mailed or put on a server as it
is. Without names it shows every experiment, in both forms, that has results, and the runs that
belong to none. Figures about trained models (distributions of outputs, removed layers) are shown if
`experiments.figure` has measured them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from experiments import results, status, table
from experiments.cli import checked, combined, guarded, is_override, parser_of, run_command
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config import sweep
from experiments.config.catalog import Experiment, catalog, experiment, names
from experiments.config.schema import UserError
from experiments.plotting.words import words
from experiments.reporting import page, tables
from experiments.reporting.comparison import compare
from experiments.reporting.published import published
from experiments.results import printing

PAGE = "report.html"
OTHERS = "other runs"
START = "python -m experiments.run experiment=demo"  # takes minutes, and needs nothing


def main(arguments: list[str] | None = None) -> int:
    given = _parsed(arguments)
    outputs = str(sweep.paths_of(given.overrides)["outputs"])
    times = results.times(outputs)
    sections, seen = [], set[str]()
    for entry, mini in console.progress(_forms(given), "reading"):
        overrides = combined(entry.overrides(mini), given.overrides)
        frame = results.load(overrides)
        seen.update(frame.id)
        if given.experiments or (frame.status != results.MISSING).any():
            name = entry.name + page.MINI if mini else entry.name
            sections.append(section(name, entry, run_command(overrides), frame, times))
    is_whole = not given.experiments and not given.mini
    if is_whole and all(key.startswith("paths") for key in sweep.keys(given.overrides)):
        rest = results.others(outputs, seen)
        sections += [section(OTHERS, None, "", rest, times)] if len(rest) else []
    for one in console.progress(sections, "drawing"):
        one.draw(outputs)
    path = _path(given.to, outputs)
    with atomic_write(path) as file:
        file.write_text(page.render(sections, outputs, START), encoding="utf-8")
    if not any(len(one.finished) for one in sections):
        console.error(f"{outputs} has no finished run; start with: {START}")
    console.info(f"saved as {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("words", nargs="*", metavar="experiment|override", help="see above")
    parser.add_argument("--mini", action="store_true", help="mini forms, on built-in models, only")
    parser.add_argument("--to", type=Path, help=f"a file, or a folder for {PAGE}")
    given = parser.parse_intermixed_args(arguments)
    wanted = [each for each in given.words if not is_override(each)]
    given.overrides = [each for each in given.words if each not in wanted]
    given.experiments = list(dict.fromkeys(checked(parser, name, names()) for name in wanted))
    return given


def _forms(given: argparse.Namespace) -> list[tuple[Experiment, bool]]:
    """The experiments to look at, and for each whether in its mini form."""
    if given.experiments:
        return [(experiment(name), given.mini) for name in given.experiments]
    full = [] if given.mini else [False]
    return [
        (entry, mini)
        for entry in catalog().values()
        for mini in (*full, *([True] if entry.mini else []))
    ]


def section(
    name: str, entry: Experiment | None, command: str, frame: pd.DataFrame, times: pd.DataFrame
) -> page.Section:
    """The part of the page about an experiment, or about other runs, without its charts."""
    found = page.Section(name, entry, command, status.line(name, frame, times), frame)
    if found.has_table and len(found.finished):
        try:
            heading, text = _table(entry.name if entry else "", found)
            found.add_table(f"{heading}, {printing.evaluated_on(found.finished)}.", text)
        except UserError as error:  # a cell would mix up settings
            found.notes.append(str(error))
    return found


def _table(name: str, part: page.Section) -> tuple[str, str]:
    """The heading of a section's table, and the table as HTML."""
    if name in published():
        compared = compare(name, part.frame)
        return table.comparison_heading(compared), tables.comparison(compared, "html")
    lines = table.paired_lines(name, part.finished) if name else []
    rows = results.over_seeds(part.finished)
    shared = printing.shared(rows)
    where = ", ".join(words(value) for value in shared.values() if value != "-")
    heading = f"{where}. {table.plain_heading()}" if shared else table.plain_heading()
    return heading, table.plain(rows.drop(columns=list(shared)), lines, "html")


def _path(to: Path | None, outputs: str) -> Path:
    """The file to write: `to`, if it has a suffix and is no folder."""
    to = to or Path(outputs)
    return to / PAGE if to.is_dir() or not to.suffix else to


if __name__ == "__main__":
    sys.exit(guarded(main))
