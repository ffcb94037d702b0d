"""A grid of panels, and what every plot draws in one the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.plotting.style import BLACK, GREY, STYLE

MAX_TICKS = 16  # labelled layers on an axis
DECADE = 10  # an axis whose values span less is linear
LEGEND_LINE = 0.2  # inches
# a value of a map is far above the others if it is this many times their quantile
FAR, QUANTILE = 1.5, 0.98
BAND, BAR = "band: ± standard deviation", "bar: ± standard deviation"


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


def heat_maps(
    figure: Figure,
    axes: Sequence[Any],
    tables: Sequence[pd.DataFrame],
    colours: str,
    label: str,
    limits: tuple[float, float] | None = None,
    **options: Any,
) -> None:
    """Draw a table in each panel as a map of colours, with one scale and one colour bar.

    Without limits the scale starts at zero, and a few values far above all others do not stretch
    it: they are black, the bar ends in an arrow, and its label names the largest value.

    Args:
        figure: The figure.
        axes: A panel for each table.
        tables: Numbers; a missing one has no colour.
        colours: The name of a colour map.
        label: Of the colour bar.
        limits: The least and the largest value that there can be.
        options: Those of `Axes.imshow`.
    """
    low, high = limits or (0, _end_of_colours(tables))
    largest = high if limits else max(np.nanmax(table) for table in tables)
    beyond = largest > high
    shades = matplotlib.colormaps[colours].with_extremes(over=BLACK)
    for axis, table in zip(axes, tables, strict=True):
        image = axis.imshow(table, vmin=low, vmax=high, cmap=shades, **options)
        axis.grid(False)
    label += f"\nup to {largest:.2f}" if beyond else ""
    ends = "max" if beyond else "neither"
    figure.colorbar(image, ax=axes, label=label, extend=ends, aspect=30)


def _end_of_colours(tables: Sequence[pd.DataFrame]) -> float:
    """The largest value, or if some are far above all others, the largest of those."""
    values = np.concatenate([np.ravel(table) for table in tables])
    usual = values[values <= FAR * np.nanquantile(values, QUANTILE, method="lower")]
    return float(usual.max() or np.nanmax(values))


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
        elif values.max() < DECADE**2 * values.min():  # powers of ten alone would be one or two
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
    if short:
        axis.set_major_formatter(EngFormatter(sep=" "))


def whole_numbers(axis: Any) -> None:
    """Have no ticks between the epochs or layers of an axis."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(
    figure: Figure,
    axis: Any,
    title: str | None = None,
    width: float = 1.6,
    side: str = "lower",
    marks: dict[str, Any] | None = None,
) -> Figure:
    """Put the legend of one axis outside the panels, in space of its own, and return the figure.

    It also says what shows the spread, if a panel has bands or error bars.

    Args:
        figure: The figure.
        axis: The axis whose lines are named.
        title: Of the legend.
        width: Of an entry, in inches.
        side: "lower" or "upper".
        marks: What else is named, and a handle for each.
    """
    handles, labels = axis.get_legend_handles_labels()
    marks = {**(marks or {}), **_spreads(figure)}
    handles, labels = [*handles, *marks.values()], [*labels, *marks]
    columns = max(1, min(int(figure.get_figwidth() / width), len(labels)))
    lines = -(-len(labels) // columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * lines)
    figure.legend(handles, labels, loc=f"outside {side} center", ncols=columns, title=title)
    return figure


def _spreads(figure: Figure) -> dict[str, Any]:
    """A handle for each way in which the panels of a figure show a standard deviation."""
    bands = any(
        isinstance(each, PolyCollection) for axis in figure.axes for each in axis.collections
    )
    bars = any(
        isinstance(each, ErrorbarContainer) and each.has_yerr
        for axis in figure.axes
        for each in axis.containers
    )
    found: dict[str, Any] = {BAND: Patch(color=GREY, alpha=0.4, linewidth=0)} if bands else {}
    look = {"marker": "|", "markersize": 9, "linestyle": "none", "color": BLACK}
    return found | ({BAR: Line2D([], [], **look)} if bars else {})


def ticks(layers: Iterable[int]) -> list[int]:
    """All layers, or every n-th if their labels would overlap."""
    every = sorted(set(layers))
    return every[:: -(-len(every) // MAX_TICKS)]
