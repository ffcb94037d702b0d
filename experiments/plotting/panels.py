"""A grid of panels, and what every plot draws in one the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from experiments.plotting.style import STYLE

MAX_TICKS = 16  # labelled layers on an axis
DECADE = 10  # an axis whose values span less is linear
LEGEND_LINE = 0.2  # inches


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function draw in the style of all figures. Matplotlib's settings stay as they are."""

    @wraps(plot)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return plot(*arguments, **options)

    return drawn


def grid(
    rows: int, columns: int, size: tuple[float, float] = (3.6, 2.6), **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure of panels.

    Args:
        size: Width and height of one panel, in inches.
        options: Those of `Figure.subplots`.

    Returns:
        The figure, and its axes as an array (rows, columns).
    """
    # not pyplot's, which keeps every figure in memory and takes over the backend
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line(
    axis: Any, x: Any, y: Any, label: str, look: dict[str, Any], spread: pd.Series | None = None
) -> None:
    """Draw a line, with a band of one standard deviation if there is a spread."""
    axis.plot(x, y, label=label, **look)
    if spread is not None and spread.notna().any():
        low, high = y - spread.fillna(0), y + spread.fillna(0)
        axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def scale(axis: Any, values: pd.Series, short: bool = False) -> None:
    """Set up an axis for positive numbers: logarithmic if they span a decade or more.

    Args:
        axis: The x axis or y axis of a panel.
        values: What it has to show.
        short: Whether its numbers are written as 50 k and 1.2 M.
    """
    if values.min() > 0 and values.max() >= DECADE * values.min():
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_minor_formatter(NullFormatter())
        if not short and len(found := sorted(set(values))) <= MAX_TICKS // 2:
            axis.set_ticks(found, [f"{value:g}" for value in found])
            axis.set_ticks([], minor=True)
    if short:
        axis.set_major_formatter(EngFormatter(sep=" "))


def whole_numbers(axis: Any) -> None:
    """Have no ticks between the epochs or layers of an axis."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(
    figure: Figure, axis: Any, title: str | None = None, width: float = 1.6, side: str = "lower"
) -> Figure:
    """Put the legend of one axis outside the panels, in space of its own, and return the figure.

    Args:
        figure: The figure.
        axis: The axis whose lines are named.
        title: Of the legend.
        width: Of an entry, in inches.
        side: "lower" or "upper".
    """
    handles, labels = axis.get_legend_handles_labels()
    columns = max(1, min(int(figure.get_figwidth() / width), len(labels)))
    lines = -(-len(labels) // columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * lines)
    figure.legend(handles, labels, loc=f"outside {side} center", ncols=columns, title=title)
    return figure


def ticks(layers: Iterable[int]) -> list[int]:
    """All layers, or every n-th if their labels would overlap."""
    every = sorted(set(layers))
    return every[:: -(-len(every) // MAX_TICKS)]
