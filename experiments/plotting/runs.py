"""Charts of any set of runs: importances as a map, score against parameters, training curves.

The report and W&B draw them. Each is narrow enough for a phone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.plotting.panels import (
    grid,
    heat_maps,
    legend,
    line,
    scale,
    styled,
    ticks,
    whole_numbers,
)
from experiments.plotting.style import BLACK, GREY, IMPORTANCE, VERMILLION, looks
from experiments.plotting.words import words

WIDTH = 4.8  # inches
ROW, CELL, LETTER = 0.24, 0.22, 0.065  # inches: a row and a cell of a map, a letter of a label
MARKS = {"own LoRA": VERMILLION, "own LoRA in some runs": "none"}


@styled
def importance_map(data: pd.DataFrame) -> Figure:
    """Plot importance by layer: a panel per module type, a row per task and setting.

    Args:
        data: Columns: row (its label), module_type, layer, importance (y_i), kept (the fraction of
            runs in which the layer kept its own LoRA).
    """
    kinds, rows = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data.row))
    layers = sorted(set(data.layer))
    width = max(WIDTH, CELL * len(layers) + LETTER * max(map(len, rows)) + 1.2)  # with colour bar
    figure, axes = grid(len(kinds), 1, (width, 0.35 + ROW * len(rows)), sharex=True, sharey=True)
    figure.set_figheight(figure.get_figheight() + 0.7)  # the axis below and the legend
    tables, kept_tables = (
        [
            part.pivot(index="row", columns="layer", values=name).reindex(rows, columns=layers)
            for _, part in data.groupby("module_type", sort=False)
        ]
        for name in ("importance", "kept")
    )
    label = "importance $y_i$"
    heat_maps(figure, list(axes[:, 0]), tables, IMPORTANCE, label, aspect="auto")
    for axis, kind, kept in zip(axes[:, 0], kinds, kept_tables, strict=True):
        for mask, face in zip((kept == 1, (kept > 0) & (kept < 1)), MARKS.values(), strict=True):
            y, x = np.nonzero(mask.to_numpy())
            axis.plot(x, y, **_mark(face))
        axis.set_yticks(range(len(rows)), rows)
        axis.set_xticks([layers.index(layer) for layer in ticks(layers)], ticks(layers))
        axis.set_title(words(kind))
    axes[-1, 0].set_xlabel("layer")
    handles = [Line2D([], [], label=name, **_mark(face)) for name, face in MARKS.items()]
    in_some = ((data.kept > 0) & (data.kept < 1)).any()
    figure.legend(handles=handles[: 1 + in_some], loc="outside lower center", ncols=2)
    return figure


def _mark(face: str) -> dict[str, object]:
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": 4,
        "markerfacecolor": face,
        "markeredgecolor": VERMILLION,
    }


@styled
def score_against_parameters(data: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Plot the score of each method against its parameters; LoRA's score is a line.

    Args:
        data: Of one task and backbone. Columns: method, label, metric, score and std (percent),
            adapter.
        paper: The published scores: label, score, adapter. May be empty.
    """
    figure, ((axis,),) = grid(1, 1, (WIDTH, 2.9))
    look = looks(data.label)
    for row in data[data.label == words("lora")].itertuples():
        axis.axhline(row.score, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for row in data.itertuples():
        point = {**look[row.label], "linestyle": "none", "label": row.label}
        if row.adapter:
            spread = None if np.isnan(row.std) else row.std
            axis.errorbar(row.adapter, row.score, spread, capsize=2, **point)
        else:  # the head alone trains, so it has no place on this axis
            colour = point["color"]
            axis.axhline(row.score, color=colour, linestyle=":", label=f"{row.label} (0)")
    for i, row in enumerate(paper.itertuples()):
        point = {"color": GREY, "marker": "o", **look.get(row.label, {}), "linestyle": "none"}
        label = "hollow: the paper" if i == 0 else None
        axis.plot(row.adapter, row.score, markerfacecolor="none", label=label, **point)
    placed = pd.Series([*data.adapter, *paper.adapter], dtype=float)
    scale(axis.xaxis, placed[placed > 0], short=True)
    axis.set(xlabel="trainable parameters outside the head", ylabel=_percent(data))
    return legend(figure, axis, width=2.3)


@styled
def training_curves(data: pd.DataFrame) -> Figure:
    """Plot score (above) and training loss (below) against the epoch, with a band over seeds.

    Args:
        data: Of one task and backbone. Columns: label, metric, epoch, score and std (percent),
            loss, loss_std.
    """
    figure, axes = grid(2, 1, (WIDTH, 1.8), sharex=True)
    look = looks(data.label)
    for label, part in data.groupby("label", sort=False):
        line(axes[0, 0], part.epoch, part.score, label, look[label], part["std"])
        line(axes[1, 0], part.epoch, part.loss, label, look[label], part.loss_std)
    axes[0, 0].set_ylabel(_percent(data))
    axes[1, 0].set(ylabel="training loss", xlabel="epoch")
    whole_numbers(axes[1, 0].xaxis)
    return legend(figure, axes[0, 0], width=2.3)


def _percent(data: pd.DataFrame) -> str:
    return f"{words(data.metric.iloc[0])}, %"
