"""A grid of panels, and what every plot draws in one the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

MAX_TICKS = 16  # labelled layers on an axis
DECADE = 10  # an axis whose values span less is linear
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.6,
}


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function draw in the style of all figures, without a change of matplotlib's settings."""

    @wraps(plot)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return plot(*arguments, **options)

    return drawn


def grid(
    rows: int, columns: int, size: tuple[float, float] = (4.2, 2.7), **options: Any
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


def scale(axis: Any, values: pd.Series) -> None:
    """Make the horizontal axis logarithmic if its values span a decade or more."""
    if values.min() > 0 and values.max() >= DECADE * values.min():
        axis.set_xscale("log")


def counts(axis: Any) -> None:
    """Write the numbers of an axis short: 50 k, 1.2 M."""
    axis.set_major_formatter(EngFormatter(places=None, sep=" "))


def whole_numbers(axis: Any) -> None:
    """Have no ticks between the epochs, steps or layers of an axis."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(figure: Figure, axis: Any, columns: int = 3, title: str | None = None) -> Figure:
    """Put the legend of one axis below the panels, and return the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), title=title
    )
    return figure


def ticks(layers: Iterable[int]) -> list[int]:
    """All layers, or every n-th if their labels would overlap."""
    every = sorted(set(layers))
    return every[:: -(-len(every) // MAX_TICKS)]
