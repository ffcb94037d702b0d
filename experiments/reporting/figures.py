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
        caption: What it shows.
    """

    data: Callable[..., pd.DataFrame]
    plot: Callable[..., Any]
    caption: str


FIGURES = {
    "importances": FigureKind(
        figure_data.importances, plots.importances, "Importance of each layer, over seeds"
    ),
    "distribution": FigureKind(
        figure_data.distribution, plots.distribution, "Squared norms of LoRA's outputs over tokens"
    ),
    "magnitudes": FigureKind(
        figure_data.magnitudes, plots.magnitudes, "Importance relative to the largest layer's"
    ),
    "agreement": FigureKind(
        figure_data.agreement,
        plots.agreement,
        "Rank correlation of importances between tasks, and on the diagonal between seeds of one",
    ),
    "convergence": FigureKind(
        figure_data.convergence,
        plots.convergence,
        "Rank correlation of importances with those of the largest sample",
    ),
    "kept": FigureKind(figure_data.kept, plots.kept, "Layers that keep their own LoRA"),
    "curves": FigureKind(figure_data.curves, plots.curves, "Score and trainable parameters"),
    "removal": FigureKind(
        figure_data.removal,
        plots.removal,
        "Score as layers lose their LoRA, and the loss that removing one adds",
    ),
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
