"""What every command prints with: messages, a progress bar, tables."""

from __future__ import annotations

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
    terminal.rule(f"[bold]{id}", align="left")


def info(message: str) -> None:
    """One line, whatever brackets stand in it."""
    terminal.print(message, soft_wrap=True, markup=False)


def error(message: str) -> None:
    terminal.print(message, style="red", soft_wrap=True, markup=False)


def first_line(error: str) -> str:
    """Of what an error says, without its traceback: the type and the first line of the message."""
    lines = error.strip().splitlines()
    traceback = max((i for i, line in enumerate(lines) if line.startswith("Traceback ")), default=-1)
    return next((line for line in lines[traceback + 1 :] if not line.startswith(" ")), lines[-1])


def key_values(lines: list[tuple[str, str]]) -> None:
    """Names and what is to be said of them."""
    table = grid()
    for name, text in lines:
        table.add_row(name, escape(text))
    terminal.print(table)


def grid() -> Table:
    """Two columns; a long word of the second is folded, not cut."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    return table


def progress(items: Collection[Item], text: str) -> Iterable[Item]:
    """The items, with a bar on the standard error that goes away when they are done."""
    return track(items, text, total=len(items), console=Console(stderr=True), transient=True)


def print_frame(frame: pd.DataFrame, title: str, text: tuple[str, ...], wrapped: tuple[str, ...] = ()) -> None:
    """A table of text cells; columns of `text` stand to the left, those of numbers to the right."""
    tight: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": 0} if terminal.width < NARROW else {}
    if title:
        info(title)
    table = Table(**tight)
    for column in frame.columns:
        # a long name is folded, a number never cut
        options: dict[str, Any] = {"overflow": "fold"} if column in wrapped else {"no_wrap": True, "min_width": len(column)}
        table.add_column(column, justify="left" if column in text else "right", **options)
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(str(cell)) for cell in row))
    terminal.print(table)
