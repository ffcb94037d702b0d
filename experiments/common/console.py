"""Print messages, progress bars and tables."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

terminal = Console(highlight=False)
Item = TypeVar("Item")
NARROW = 100  # characters


def started(id: str) -> None:
    """Print a heading for a run."""
    terminal.rule(f"[bold]{id}", align="left")


def info(message: str) -> None:
    """Print one line; brackets are not taken for markup."""
    terminal.print(message, soft_wrap=True, markup=False)


def error(message: str) -> None:
    """Print one line in red."""
    terminal.print(message, style="red", soft_wrap=True, markup=False)


def first_line(error: str) -> str:
    """The type of an error and the first line of its message, without the traceback."""
    lines = error.strip().splitlines()
    traceback = max(
        (i for i, line in enumerate(lines) if line.startswith("Traceback ")), default=-1
    )
    return next((line for line in lines[traceback + 1 :] if not line.startswith(" ")), lines[-1])


def key_values(lines: list[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = grid()
    for name, text in lines:
        table.add_row(name, escape(text))
    terminal.print(table)


def grid() -> Table:
    """An empty grid of two columns; long words of the second are folded, not cut off."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    return table


def shows_progress() -> bool:
    """Whether a progress bar can be read: one process, on a terminal."""
    is_worker = multiprocessing.current_process().name.startswith("Loky")  # joblib's
    return terminal.is_terminal and not is_worker


def progress(items: Collection[Item], text: str) -> Iterable[Item]:
    """Iterate over items with a progress bar on a terminal's standard error, removed at the end."""
    errors = Console(stderr=True)
    options: dict[str, Any] = {"transient": True, "disable": not errors.is_terminal}
    return track(items, text, total=len(items), console=errors, **options)


def print_frame(
    frame: pd.DataFrame, title: str, text: tuple[str, ...], wrapped: tuple[str, ...] = ()
) -> None:
    """Print a table of text cells.

    Args:
        frame: The cells.
        title: A line above; "" for none.
        text: Columns to align left; others are numbers, aligned right.
        wrapped: Columns whose long words may be folded.
    """
    tight: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": 0} if terminal.width < NARROW else {}
    if title:
        info(title)
    table = Table(**tight)
    for column in frame.columns:
        # long names may be folded, but numbers must never be cut off
        options: dict[str, Any] = {"no_wrap": True, "min_width": len(column)}
        if column in wrapped:
            options = {"overflow": "fold"}
        table.add_column(column, justify="left" if column in text else "right", **options)
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(str(cell)) for cell in row))
    terminal.print(table)
