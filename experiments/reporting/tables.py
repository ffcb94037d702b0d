"""Format tables for the terminal and as text, Markdown, LaTeX, HTML and CSV.

Both plain frames and comparisons with the paper.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from experiments.reporting.comparison import Comparison
from experiments.reporting.statistics import AVERAGE

SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex", "html": "html", "csv": "csv"}
MISSING = "missing"
NUMBER = re.compile(r"(^|<br>)(<\w+>)*[-+]?\d")  # how a line of a cell with a number starts
KEPT = "layers with own LoRA"
LEGEND = "Best {best}, second best {second}"
BESIDE = (
    "Each cell: our score, the paper's, the difference. {legend}; ours and the paper's separately."
)
TEX = {letter: f"\\{letter}" for letter in "%_&#${}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
}


@dataclass(frozen=True)
class Style:
    """How a format marks the contents of a cell and joins its lines."""

    best: str
    second: str
    note: str  # template of a footnote mark
    lines: Callable[[list[str]], str]
    plain: Callable[[str], str] = str  # escapes text
    below: str = "\n{}\n"  # template of a line below the table

    def marked(self, text: str, rank: Any) -> str:
        """Escape a text, and mark it if it is the best (1) or second best (2) of its column."""
        text = self.plain(text)
        return text if pd.isna(rank) else (self.best if rank == 1 else self.second).format(text)


def tex(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(TEX.get(letter, letter) for letter in text)


def in_markdown(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


STYLES = {
    "text": Style("**{}**", "_{}_", "[{}]", "\n".join),
    "terminal": Style("[bold]{}[/]", "[underline]{}[/]", "\\[{}]", "\n".join, escape),
    "markdown": Style("**{}**", "<u>{}</u>", "<sup>{}</sup>", "<br>".join, in_markdown),
    "latex": Style(
        "\\textbf{{{}}}",
        "\\underline{{{}}}",
        "\\textsuperscript{{{}}}",
        lambda lines: "\\shortstack{" + " \\\\ ".join(lines) + "}",
        tex,
    ),
    "html": Style(
        "<strong>{}</strong>",
        "<u>{}</u>",
        "<sup>{}</sup>",
        "<br>".join,
        html.escape,
        "<p>{}</p>\n",
    ),
}


def frame(table: pd.DataFrame, format: str) -> str:
    """Format a frame of text cells.

    Args:
        table: The frame.
        format: A key of SUFFIXES.
    """
    if format == "csv":
        return table.to_csv(index=False)
    lines = [list(table.columns), *table.astype(str).values.tolist()]
    return _written([[STYLES[format].plain(cell) for cell in line] for line in lines], format)


def comparison(table: Comparison, format: str) -> str:
    """Format a comparison, with the footnotes and the test below it.

    Args:
        table: The comparison.
        format: A key of SUFFIXES. CSV has one line per cell and nothing below.
    """
    if format == "csv":
        return table.cells.to_csv(index=False)
    style = STYLES[format]
    lines, notes = _grid(table, style)
    below = "".join(style.below.format(line) for line in _below(table, style, notes))
    return _written(lines, format) + below


def for_terminal(table: Comparison, width: int) -> list[Table | str]:
    """Split a comparison into tables that fit the terminal.

    Args:
        table: The comparison.
        width: Of the terminal, in characters.

    Returns:
        The tables, then the lines below them.
    """
    style = STYLES["terminal"]
    lines, notes = _grid(table, style)
    tables, rest = [], list(range(2, len(lines[0])))
    while rest:
        many = len(rest)
        while many > 1 and _width(_part(lines, rest[:many])) > width:
            many -= 1
        tables.append(_part(lines, rest[:many]))
        rest = rest[many:]
    return [*tables, *_below(table, style, notes)]


def _part(lines: list[list[str]], columns: list[int]) -> Table:
    return _rich([line[:2] + [line[i] for i in columns] for line in lines])


def _width(table: Table) -> int:
    """The width of a table with nothing cut off."""
    shown = io.StringIO()
    console = Console(file=shown, width=10_000)
    return Measurement.get(console, console.options, table).maximum


def _grid(table: Comparison, style: Style) -> tuple[list[list[str]], dict[str, int]]:
    """Lines of cells, header first, and the footnotes with their numbers."""
    notes: dict[str, int] = {}
    last = [KEPT] if table.layers else []
    lines = [[style.plain(text) for text in ("method", "parameters", *table.columns, *last)]]
    for row in table.rows:
        counts = [style.plain(count) for count in table.parameters[row] if count]
        cells = [
            style.lines(_cell(table.cell(row, column), style, notes, table.digits))
            for column in table.columns
        ]
        kept = [style.plain(text) for text in table.layers.get(row, ()) if text]
        cells += [style.lines(kept)] if kept else []
        lines.append([style.plain(row), style.lines(counts), *cells])
    return lines, notes


def _cell(cell: Any, style: Style, notes: dict[str, int], digits: int) -> list[str]:
    """Our score, the paper's and the difference, as far as they exist."""
    lines = [MISSING if cell.planned else "-"]
    if cell.n:
        count = f" ({cell.n} of {cell.planned})" if cell.n < cell.planned else f" (n={cell.n})"
        whole_average = cell.column == AVERAGE and cell.n == cell.planned
        lines = [
            style.marked(_score(cell.ours, cell.std, digits), cell.rank)
            + ("" if whole_average else count)
        ]
    if pd.notna(cell.paper):
        note = style.note.format(notes.setdefault(cell.note, len(notes) + 1)) if cell.note else ""
        lines.append(
            style.marked(_score(cell.paper, cell.paper_std, digits), cell.paper_rank) + note
        )
    if pd.notna(cell.difference):
        lines.append(f"{cell.difference:+.{digits}f}")
    return lines


def _below(table: Comparison, style: Style, notes: dict[str, int]) -> list[str]:
    legend = LEGEND.format(best=style.best.format("bold"), second=style.second.format("underlined"))
    legend = f"{legend}." if table.cells.paper.isna().all() else BESIDE.format(legend=legend)
    numbered = [
        f"{style.note.format(number)} {style.plain(note)}" for note, number in notes.items()
    ]
    left_out = f"Runs of {', '.join(table.left_out)} belong to no row." if table.left_out else ""
    return [
        legend,
        *numbered,
        *(style.plain(text) for text in (table.readings, table.test, left_out) if text),
    ]


def _score(value: float, std: float, digits: int) -> str:
    return f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if pd.notna(std) else "")


def _written(lines: list[list[str]], format: str) -> str:
    """Format lines of escaped cells, header first."""
    if format == "text":
        return _text(_rich(lines))
    return {"markdown": _markdown, "latex": _latex, "html": _html}[format](lines)


def _markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(lines: list[list[str]]) -> str:
    """A LaTeX tabular, which needs the package booktabs."""
    columns = "l" + "r" * (len(lines[0]) - 1)
    table = pd.DataFrame(lines[1:], columns=lines[0])
    return table.to_latex(index=False, escape=False, column_format=columns)


def _html(lines: list[list[str]]) -> str:
    """An HTML table. A row starts with its heading; columns without numbers are text."""
    columns = [cells[1:] for cells in zip(*lines, strict=True)]
    sides = ["" if any(map(NUMBER.search, cells)) else ' class="text"' for cells in columns]
    cells = zip(sides, lines[0], strict=True)
    head = "".join(f'<th scope="col"{side}>{cell}</th>' for side, cell in cells)
    rows = []
    for name, *others in lines[1:]:
        cells = zip(sides[1:], others, strict=True)
        row = "".join(f"<td{side}>{cell}</td>" for side, cell in cells)
        rows.append(f'<tr><th scope="row">{name}</th>{row}</tr>\n')
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n"


def _rich(lines: list[list[str]]) -> Table:
    table = Table(show_lines=any("\n" in cell for line in lines for cell in line))
    for i, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _text(table: Table) -> str:
    """The table as plain text, without colours and as wide as it needs."""
    shown = io.StringIO()
    console = Console(file=shown, width=10_000, color_system=None, markup=False, emoji=False)
    console.print(table)
    return shown.getvalue()
