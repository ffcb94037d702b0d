"""The kinds of figures: for each, a function that collects the numbers and one that plots them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.config.catalog import Figure, hint
from experiments.config.schema import UserError
from experiments.reporting import figure_data, plots


@dataclass(frozen=True)
class FigureKind:
    """How to make a figure.

    Attributes:
        data: `data(frame, outputs, **arguments)` returns a tidy frame.
        plot: `plot(data, **arguments)` draws it.
    """

    data: Callable[..., pd.DataFrame]
    plot: Callable[..., Any]


FIGURES = {
    "importances": FigureKind(figure_data.importances, plots.importances),
    "distribution": FigureKind(figure_data.distribution, plots.distribution),
    "magnitudes": FigureKind(figure_data.magnitudes, plots.magnitudes),
    "agreement": FigureKind(figure_data.agreement, plots.agreement),
    "convergence": FigureKind(figure_data.convergence, plots.convergence),
    "kept": FigureKind(figure_data.kept, plots.kept),
    "curves": FigureKind(figure_data.curves, plots.curves),
    "removal": FigureKind(figure_data.removal, plots.removal),
}
IMPORTANCES = Figure("importances", {})  # for experiments without a figure of their own


def figure_kind(figure: Figure) -> FigureKind:
    """Find the functions that make a figure.

    Args:
        figure: From catalog.yaml.

    Raises:
        UserError: If there is no such kind.
    """
    if figure.kind not in FIGURES:
        raise UserError(
            f"experiments/catalog.yaml: there is no figure of kind {figure.kind}."
            f"{hint(figure.kind, FIGURES)}"
        )
    return FIGURES[figure.kind]
