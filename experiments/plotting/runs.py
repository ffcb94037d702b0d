"""Charts of any set of runs: importances as a map, score against parameters, training curves.

The report and W&B draw them. Each is narrow enough for a phone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.plotting.panels import (
    counts,
    grid,
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
LINE = 0.2  # height of a line of a legend


@styled
def importance_map(data: pd.DataFrame) -> Figure:
    """Plot importance by layer: a panel per module type, a row per task and setting.

    Args:
        data: Columns: row (its label), module_type, layer, importance (y_i), kept (the fraction of
            runs in which the layer kept its own LoRA).
    """
    kinds, rows = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data.row))
    figure, axes = grid(len(kinds), 1, (WIDTH, 0.45 + 0.24 * len(rows)), sharex=True, sharey=True)
    figure.set_figheight(figure.get_figheight() + 0.6)
    layers = sorted(set(data.layer))
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        part = data[data.module_type == kind]
        table, kept = (
            part.pivot(index="row", columns="layer", values=name).reindex(rows, columns=layers)
            for name in ("importance", "kept")
        )
        image = axis.imshow(
            table, vmin=0, vmax=data.importance.max(), cmap=IMPORTANCE, aspect="auto"
        )
        for mask, face in ((kept == 1, VERMILLION), ((kept > 0) & (kept < 1), "none")):
            y, x = np.nonzero(mask.to_numpy())
            axis.plot(x, y, "o", markerfacecolor=face, markeredgecolor=VERMILLION, markersize=4)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_xticks([layers.index(layer) for layer in ticks(layers)], ticks(layers))
        axis.set_title(kind, loc="left")
        axis.grid(False)
    axes[-1, 0].set_xlabel("layer")
    figure.colorbar(image, ax=axes, label="importance $y_i$", aspect=30, shrink=0.9)
    own = [
        axes[0, 0].plot([], [], "o", markerfacecolor=face, markeredgecolor=VERMILLION, markersize=4)
        for face in (VERMILLION, "none")
    ]
    names = ["own LoRA", "own LoRA in some runs"][: 1 + ((data.kept % 1) > 0).any()]
    figure.legend([each[0] for each in own], names, loc="outside lower center", ncols=2)
    return figure


@styled
def score_against_parameters(data: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Plot the score of each method against its parameters; LoRA's score is a line.

    Args:
        data: Of one task and backbone. Columns: method, label, metric, score and std (percent),
            adapter.
        paper: The published scores: method, score, adapter. May be empty.
    """
    figure, ((axis,),) = grid(1, 1, (WIDTH, 2.9 + LINE * -(-len(data) // 2)))
    look = _by_label(data)
    for row in data[data.method == "lora"].head(1).itertuples():
        axis.axhline(row.score, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for row in data.itertuples():
        style = look[row.label]
        if row.adapter:
            spread = None if pd.isna(row.std) else row.std
            axis.errorbar(
                row.adapter,
                row.score,
                spread,
                label=row.label,
                capsize=2,
                **style | {"linestyle": "none"},
            )
        else:  # the head alone trains, so it has no place on this axis
            axis.axhline(
                row.score, label=f"{row.label} (none)", color=style["color"], linestyle=":"
            )
    for i, row in enumerate(paper.itertuples()):
        same = [look[label] for label in data[data.method == row.method].label]
        style = (same[0] if same else {"color": GREY, "marker": "o"}) | {"linestyle": "none"}
        label = "hollow: the paper" if i == 0 else None
        axis.plot(row.adapter, row.score, markerfacecolor="none", label=label, **style)
    placed = pd.concat([data.adapter, paper.adapter])
    scale(axis, placed[placed > 0])
    counts(axis.xaxis)
    axis.set(xlabel="trainable parameters outside the head", ylabel=_percent(data))
    return legend(figure, axis, columns=2)


@styled
def training_curves(data: pd.DataFrame) -> Figure:
    """Plot score (above) and training loss (below) against the epoch, with a band over seeds.

    Args:
        data: Of one task and backbone. Columns: method, label, metric, epoch, score and std
            (percent), loss, loss_std.
    """
    names = data.label.nunique()
    figure, axes = grid(2, 1, (WIDTH, 1.8 + LINE / 2 * -(-names // 2)), sharex=True)
    look = _by_label(data)
    for label, part in data.groupby("label", sort=False):
        line(axes[0, 0], part.epoch, part.score, label, look[label], part["std"])
        line(axes[1, 0], part.epoch, part.loss, label, look[label], part.loss_std)
    axes[0, 0].set_ylabel(_percent(data))
    axes[1, 0].set(ylabel="training loss", xlabel="epoch")
    whole_numbers(axes[1, 0].xaxis)
    return legend(figure, axes[0, 0], columns=2)


def _by_label(data: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The look of each label; that of the method, if it has one setting only."""
    labels = data.drop_duplicates("label")
    single = ~labels.method.duplicated(keep=False)
    names = labels.method.where(single, labels.label)
    found = looks(names)
    return {label: found[name] for label, name in zip(labels.label, names, strict=True)}


def _percent(data: pd.DataFrame) -> str:
    return f"{words(data.metric.iloc[0])}, percent"
