"""A grid of panels, and what every plot draws in one the same way.

Lines also differ in dashes and markers, so figures work in print and in greyscale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

LOOKS = [
    (dash, marker) for dash, marker in zip(["-", "--", ":", "-."] * 3, "os^Dvx*P<>h+", strict=True)
]
MAX_TICKS = 16  # labelled layers on an axis


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
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def line(
    axis: Any, x: Any, y: Any, label: Any, i: int, of: int, spread: pd.Series | None = None
) -> None:
    """Draw line number `i` of `of`, with error bars if there is a spread."""
    dash, marker = LOOKS[i % len(LOOKS)]
    error = None if spread is None else spread.fillna(0)
    axis.errorbar(
        x,
        y,
        error,
        label=str(label),
        linestyle=dash,
        marker=marker,
        color=grey(i, of),
        markersize=4,
        linewidth=1.3,
        capsize=2,
    )


def with_legend(figure: Figure, axis: Any, title: str | None = None) -> Figure:
    """Put the legend of one axis beside the panels, and return the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", title=title, frameon=False, fontsize=8
    )
    return figure


def ticks(layers: Iterable[int]) -> list[int]:
    """All layers, or every n-th if their labels would overlap."""
    every = sorted(set(layers))
    return every[:: -(-len(every) // MAX_TICKS)]


def grey(i: int, of: int) -> str:
    """Shade number `i` of `of`, evenly spaced from black to a grey that is visible on white."""
    return str(round(0.7 * i / max(1, of - 1), 2))
