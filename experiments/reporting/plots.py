"""Plot the frames of figure_data.py with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.plotting import panels
from experiments.plotting.panels import styled
from experiments.plotting.style import BLACK, BLUE, CORRELATION, GREY, looks, ordered_looks
from experiments.plotting.words import words

COLUMNS = 4  # of the grid of small panels
OWN, SHARED = {"fc": BLUE, "ec": BLUE}, {"fc": "white", "ec": BLUE, "hatch": "////"}
DARK = 0.6  # correlations beyond it are written in white


@styled
def importances(data: pd.DataFrame) -> Figure:
    """Plot y_i per layer: mean and standard deviation over seeds.

    Layers that have no LoRA of their own in most runs are hatched.

    Args:
        data: From figure_data.importances.
    """
    rows = list(data.groupby(["backbone", "task"], sort=False))
    kinds = list(dict.fromkeys(data.module_type))
    figure, axes = panels.grid(len(rows), len(kinds), (3.6, 2.2), sharey="row")
    for line, ((backbone, task), part) in zip(axes, rows, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            layers = part[part.module_type == kind].groupby("layer")
            mean, spread = layers.importance.mean(), layers.importance.std()
            error = spread if spread.notna().any() else None
            bars = axis.bar(mean.index, mean, yerr=error, capsize=2, error_kw={"linewidth": 0.9})
            for bar, own in zip(bars, layers.kept.mean() > 0.5, strict=True):
                bar.set(**(OWN if own else SHARED))
            axis.set(
                title=f"{words(kind)}, {words(task)} on {words(backbone)}",
                xlabel="layer",
                xticks=panels.ticks(mean.index),
            )
            axis.grid(False, axis="x")
        line[0].set_ylabel("importance $y_i$")
    shades = {"own LoRA": OWN, "shared or none": SHARED}
    marks = {label: Rectangle((0, 0), 1, 1, **look) for label, look in shades.items()}
    return panels.legend(figure, axes[0, 0], width=2.0, marks=marks)


@styled
def distribution(data: pd.DataFrame, module: int) -> Figure:
    """Plot distributions: a panel per layer with the same axes, an outline per method.

    Args:
        data: From figure_data.distribution.
        module: As there.
    """
    layers, methods = sorted(set(data.layer)), list(dict.fromkeys(data.method))
    rows = -(-len(layers) // COLUMNS)
    figure, axes = panels.grid(rows, COLUMNS, (2.0, 1.5), sharex=True, sharey=True)
    for axis in axes.flat[len(layers) :]:
        axis.set_axis_off()
    look = looks(map(words, methods))
    for axis, layer in zip(axes.flat, layers, strict=False):
        for method in methods:
            part = data[(data.layer == layer) & (data.method == method)]
            _outline(axis, part, words(method), look[words(method)], fill=len(methods) == 1)
        axis.set_title(f"layer {layer}")
    first = data.iloc[0]
    figure.supxlabel(
        f"$\\log_{{10}} \\|\\Delta W x\\|^2$ of {words(first.module_type)}, "
        f"{words(first.task)} on {words(first.backbone)} (line: mean)",
        fontsize=9,
    )
    figure.supylabel("fraction of tokens", fontsize=9)
    return panels.legend(figure, axes.flat[0], side="upper")


def _outline(axis: Any, part: pd.DataFrame, label: str, look: dict[str, Any], fill: bool) -> None:
    """Draw one method's distribution in one layer, and its mean."""
    fraction = part.tokens / max(1, part.tokens.sum())
    edges = [*part.log10_from, part.log10_to.iloc[-1]]
    same = {"color": look["color"], "linestyle": look["linestyle"]}
    axis.stairs(fraction, edges, label=label, linewidth=1.3, **same)
    if fill:
        axis.stairs(fraction, edges, fill=True, color=look["color"], alpha=0.15)
    if part["mean"].iloc[0] > 0:
        axis.axvline(np.log10(part["mean"].iloc[0]), linewidth=0.8, **same)


def _by_module_type(data: pd.DataFrame, lines: str, draw: Callable[..., None]) -> Figure:
    """Call `draw(axis, part, label=, look=)` for each line, in a panel per module type."""
    kinds, names = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data[lines]))
    figure, axes = panels.grid(1, len(kinds), sharey=True)
    is_quantity = pd.api.types.is_numeric_dtype(data[lines])
    labels = {name: f"{name:g}" if is_quantity else words(name) for name in names}
    look = ordered_looks(names) if is_quantity else looks(labels.values())
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.set_title(f"{words(kind)} on {words(data.backbone.iloc[0])}")
        for name, label in labels.items():
            part = data[(data.module_type == kind) & (data[lines] == name)]
            draw(axis, part, label=label, look=look[label])
    return figure


@styled
def magnitudes(data: pd.DataFrame, lines: str) -> Figure:
    """Plot magnitudes: a panel per module type, a line per task or setting.

    Args:
        data: From figure_data.magnitudes.
        lines: As there.
    """

    def draw(axis: Any, part: pd.DataFrame, **line: Any) -> None:
        panels.line(axis, part.layer, part.magnitude, **line)
        axis.set(xlabel="layer", xticks=panels.ticks(data.layer))

    figure = _by_module_type(data, lines, draw)
    figure.axes[0].set_ylabel("importance over the largest layer's")
    return panels.legend(figure, figure.axes[0], None if lines == "task" else words(lines))


@styled
def agreement(data: pd.DataFrame) -> Figure:
    """Plot rank correlations between tasks; the diagonal is between seeds of one task.

    Args:
        data: From figure_data.agreement.
    """
    kinds, tasks = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data.task))
    side = 0.9 + 0.5 * len(tasks)
    figure, axes = panels.grid(1, len(kinds), (side + 0.3, side), sharey=True)
    tables = [
        part.pivot(index="task", columns="other", values="correlation")
        .astype(float)
        .loc[tasks, tasks]
        for _, part in data.groupby("module_type", sort=False)
    ]
    label = "Spearman's $\\rho$"
    panels.heat_maps(figure, list(axes[0]), tables, CORRELATION, label, limits=(-1, 1))
    for axis, kind, table in zip(axes[0], kinds, tables, strict=True):
        for (i, j), r in np.ndenumerate(table.to_numpy()):
            colour = "white" if abs(r) > DARK else "black"
            text = "" if np.isnan(r) else f"{r:.2f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        names = [words(task) for task in tasks]
        axis.set_xticks(range(len(tasks)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(tasks)), names)
        axis.set_title(f"{words(kind)} on {words(data.backbone.iloc[0])}")
        axis.set_facecolor("0.92")  # where there is no correlation
        axis.spines[:].set_visible(False)
    return figure


@styled
def convergence(data: pd.DataFrame, key: str) -> Figure:
    """Plot rank correlations with the largest sample: mean and standard deviation over seeds.

    Args:
        data: From figure_data.convergence.
        key: As there.
    """

    def draw(axis: Any, part: pd.DataFrame, **line: Any) -> None:
        groups = part.groupby(key).correlation
        panels.line(axis, groups.mean().index, groups.mean(), spread=groups.std(), **line)
        panels.scale(axis.xaxis, data[key])
        axis.set_xlabel(words(key))

    figure = _by_module_type(data, "task", draw)
    figure.axes[0].set_ylabel("Spearman's $\\rho$\nwith the largest sample")
    return panels.legend(figure, figure.axes[0])


@styled
def kept(data: pd.DataFrame, key: str, lines: str) -> Figure:
    """Plot the number of layers with a LoRA of their own: mean and standard deviation over seeds.

    Args:
        data: From figure_data.kept.
        key: As there.
        lines: As there.
    """
    data, most = data.sort_values([lines, key]), data.layers.max()

    def draw(axis: Any, part: pd.DataFrame, **line: Any) -> None:
        panels.line(axis, part[key], part.kept, spread=part["std"], **line)
        panels.scale(axis.xaxis, data[key])
        axis.set(xlabel=words(key), ylim=(0, most + 0.5))

    figure = _by_module_type(data, lines, draw)
    for axis in figure.axes:
        panels.whole_numbers(axis.yaxis)
        axis.axhline(most, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    figure.axes[0].set_ylabel("layers with their own LoRA")
    return panels.legend(figure, figure.axes[0], title=words(lines))


@styled
def curves(data: pd.DataFrame, key: str) -> Figure:
    """Plot scores (above) and trainable parameters (below) against a setting.

    The paper's scores are hollow.

    Args:
        data: From figure_data.curves.
        key: As there.
    """
    tasks, look = list(dict.fromkeys(data.task)), looks(map(words, dict.fromkeys(data.method)))
    figure, axes = panels.grid(2, len(tasks), (3.6, 1.9), sharex=True)
    for (score, count), task in zip(axes.T, tasks, strict=True):
        for method, part in data[data.task == task].groupby("method", sort=False):
            name, style = words(method), look[words(method)]
            panels.line(score, part[key], part.score, name, style, part["std"])
            panels.line(count, part[key], part.adapter, name, style)
            hollow = {**style, "linestyle": "none", "markerfacecolor": "none"}
            if part.paper.notna().any():
                score.plot(part[key], part.paper, label=f"{name}, the paper's", **hollow)
        panels.scale(count.xaxis, data[key])
        panels.scale(count.yaxis, data.adapter, short=True)
        metric = words(data[data.task == task].metric.iloc[0])
        score.set(title=f"{words(task)} on {words(data.backbone.iloc[0])}", ylabel=f"{metric}, %")
        count.set(xlabel=words(key), ylabel="parameters")
    return panels.legend(figure, axes[0, 0])


@styled
def removal(data: pd.DataFrame) -> Figure:
    """Plot the effect of removing LoRAs.

    Above: score against the number of layers removed, mean over seeds and permutations. Below:
    the loss that removing one layer adds, against its importance.

    Args:
        data: From figure_data.removal.
    """
    tasks = list(dict.fromkeys(data.task))
    look = looks(dict.fromkeys(data.order[data.order != "alone"]))
    figure, axes = panels.grid(2, len(tasks), (3.6, 2.2))
    for (curve, scatter), task in zip(axes.T, tasks, strict=True):
        part = data[(data.task == task) & (data.order != "alone")]
        for order, steps in part.groupby("order", sort=False):
            groups = steps.groupby("removed").score
            panels.line(curve, groups.mean().index, groups.mean(), order, look[order], groups.std())
        curve.set(
            title=f"{words(task)} on {words(data.backbone.iloc[0])}",
            xlabel="layers without LoRA",
            ylabel="score, %",
        )
        panels.whole_numbers(curve.xaxis)
        alone = data[(data.task == task) & (data.order == "alone")]
        rho = alone.importance.corr(alone.added, method="spearman")
        scatter.plot(alone.importance, alone.added, "o", color=BLACK, markersize=4)
        scatter.axhline(0, color=GREY, linewidth=0.8)
        panels.scale(scatter.xaxis, alone.importance)
        scatter.set(
            xlabel="importance $y$ of the layer",
            ylabel="loss added without it",
            title=f"Spearman's $\\rho$ = {rho:.2f}",
        )
    return panels.legend(figure, axes[0, 0])
