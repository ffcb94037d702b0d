"""Plot the frames of figure_data.py with matplotlib."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.reporting import panels

COLUMNS = 4  # of the grid of small panels
DARK, LIGHT = "0.15", "0.65"


def importances(data: pd.DataFrame) -> Figure:
    """Plot y_i per layer: mean and standard deviation over seeds.

    Layers that have no LoRA of their own in most runs are hatched.

    Args:
        data: From figure_data.importances.
    """
    rows = list(data.groupby(["backbone", "task"], sort=False))
    kinds = list(dict.fromkeys(data.module_type))
    figure, axes = panels.grid(len(rows), len(kinds), sharey="row")
    for line, ((backbone, task), part) in zip(axes, rows, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            layers = part[part.module_type == kind].groupby("layer")
            mean, spread = layers.importance.mean(), layers.importance.std()
            kept = layers.kept.mean() > 0.5
            bars = axis.bar(
                mean.index, mean, yerr=spread.fillna(0), capsize=2, color="0.35", edgecolor="black"
            )
            for bar, own in zip(bars, kept, strict=True):
                if not own:
                    bar.set(facecolor="white", hatch="////")
            axis.set(
                title=f"{kind}, {task} on {backbone}",
                xlabel="layer",
                xticks=panels.ticks(mean.index),
            )
        line[0].set_ylabel("importance $y_i$")
    handles = [
        Rectangle((0, 0), 1, 1, fc=color, ec="black", hatch=hatch)
        for color, hatch in (("0.35", ""), ("white", "////"))
    ]
    figure.legend(
        handles, ["own LoRA", "shared or none"], loc="outside upper center", ncols=2, frameon=False
    )
    return figure


def distribution(data: pd.DataFrame, module: int) -> Figure:
    """Plot distributions: a panel per layer with the same axes, an outline per method.

    Args:
        data: From figure_data.distribution.
        module: As there.
    """
    layers, methods = sorted(set(data.layer)), list(dict.fromkeys(data.method))
    figure, axes = panels.grid(
        -(-len(layers) // COLUMNS), COLUMNS, (2.4, 1.7), sharex=True, sharey=True
    )
    for axis in axes.flat[len(layers) :]:
        axis.set_axis_off()
    for axis, layer in zip(axes.flat, layers, strict=False):
        for i, (method, (dash, _)) in enumerate(zip(methods, panels.LOOKS, strict=False)):
            colour = panels.grey(i, len(methods))
            part = data[(data.layer == layer) & (data.method == method)]
            fraction = part.tokens / max(1, part.tokens.sum())
            edges = [*part.log10_from, part.log10_to.iloc[-1]]
            axis.stairs(
                fraction,
                edges,
                fill=len(methods) == 1,
                color=colour,
                label=method,
                linestyle=dash,
                linewidth=1.3,
            )
            if part["mean"].iloc[0] > 0:
                axis.axvline(
                    np.log10(part["mean"].iloc[0]), color=colour, linestyle=dash, linewidth=0.7
                )
        axis.set_title(f"layer {layer}", fontsize=8)
    first = data.iloc[0]
    figure.supxlabel(
        f"$\\log_{{10}} \\|\\Delta W x\\|^2$ of {first.module_type}, "
        f"{first.task} on {first.backbone} (line: mean)",
        fontsize=9,
    )
    figure.supylabel("fraction of tokens", fontsize=9)
    if len(methods) > 1:
        figure.legend(
            *axes.flat[0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=len(methods),
            frameon=False,
        )
    return figure


def magnitudes(data: pd.DataFrame, lines: str) -> Figure:
    """Plot magnitudes: a panel per module type, a line per task or setting.

    Args:
        data: From figure_data.magnitudes.
        lines: As there.
    """
    kinds, names = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data[lines]))
    figure, axes = panels.grid(1, len(kinds), (4.6, 3.0), sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for i, name in enumerate(names):
            part = data[(data.module_type == kind) & (data[lines] == name)]
            panels.line(axis, part.layer, part.magnitude, name, i, len(names))
        axis.set(
            title=f"{kind} on {data.backbone.iloc[0]}",
            xlabel="layer",
            xticks=panels.ticks(data.layer),
        )
    axes[0][0].set_ylabel("$g_i$ over the largest layer's")
    return panels.with_legend(figure, axes[0][0], lines.rpartition(".")[2])


def agreement(data: pd.DataFrame) -> Figure:
    """Plot rank correlations between tasks; the diagonal is between seeds of one task.

    Args:
        data: From figure_data.agreement.
    """
    kinds, tasks = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data.task))
    figure, axes = panels.grid(1, len(kinds), (1.2 + 0.6 * len(tasks), 1.0 + 0.6 * len(tasks)))
    for axis, kind in zip(axes[0], kinds, strict=True):
        part = data[data.module_type == kind]
        table = (
            part.pivot(index="task", columns="other", values="correlation")
            .astype(float)
            .loc[tasks, tasks]
        )
        axis.imshow(table, vmin=-1, vmax=1, cmap="Greys")
        for i, j in np.ndindex(table.shape):
            text = "" if pd.isna(table.iloc[i, j]) else f"{table.iloc[i, j]:.2f}"
            colour = "white" if table.iloc[i, j] > 0.3 else "black"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
        axis.set_yticks(range(len(tasks)), tasks)
        axis.set_title(f"{kind} on {data.backbone.iloc[0]}: Spearman's $\\rho$", fontsize=9)
    return figure


def convergence(data: pd.DataFrame, key: str) -> Figure:
    """Plot rank correlations with the largest sample: mean and standard deviation over seeds.

    Args:
        data: From figure_data.convergence.
        key: As there.
    """
    kinds, tasks = list(dict.fromkeys(data.module_type)), list(dict.fromkeys(data.task))
    figure, axes = panels.grid(1, len(kinds), (4.2, 3.0), sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for i, task in enumerate(tasks):
            groups = data[(data.module_type == kind) & (data.task == task)].groupby(key).correlation
            panels.line(axis, groups.mean().index, groups.mean(), task, i, len(tasks), groups.std())
        axis.set(
            title=f"{kind} on {data.backbone.iloc[0]}", xlabel=key.rpartition(".")[2], xscale="log"
        )
    axes[0][0].set_ylabel("Spearman's $\\rho$ with the largest")
    return panels.with_legend(figure, axes[0][0])


def kept(data: pd.DataFrame, key: str, lines: str) -> Figure:
    """Plot the number of layers with a LoRA of their own: mean and standard deviation over seeds.

    Args:
        data: From figure_data.kept.
        key: As there.
        lines: As there.
    """
    kinds, names = list(dict.fromkeys(data.module_type)), sorted(set(data[lines]))
    figure, axes = panels.grid(1, len(kinds), (4.2, 3.0), sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for i, name in enumerate(names):
            part = data[(data.module_type == kind) & (data[lines] == name)]
            panels.line(axis, part[key], part.kept, f"{name:g}", i, len(names), part["std"])
        axis.axhline(data.layers.max(), color=LIGHT, linewidth=0.7)
        axis.set(
            title=f"{kind}, {data.task.iloc[0]} on {data.backbone.iloc[0]}",
            xlabel=key.rpartition(".")[2],
            xscale="log",
            ylim=(0, data.layers.max() + 0.5),
        )
    axes[0][0].set_ylabel("layers with an own LoRA")
    return panels.with_legend(figure, axes[0][0], lines.rpartition(".")[2])


def curves(data: pd.DataFrame, key: str) -> Figure:
    """Plot scores (above) and trainable parameters (below) against a setting.

    Args:
        data: From figure_data.curves.
        key: As there.
    """
    tasks, methods = list(dict.fromkeys(data.task)), list(dict.fromkeys(data.method))
    figure, axes = panels.grid(2, len(tasks), (4.2, 2.4), sharex=True)
    for (score, count), task in zip(axes.T, tasks, strict=True):
        for i, method in enumerate(methods):
            part = data[(data.task == task) & (data.method == method)]
            panels.line(score, part[key], part.score, method, i, len(methods), part["std"])
            panels.line(count, part[key], part.adapter, method, i, len(methods))
        values = data[key]
        if values.max() / values.min() > 5:
            score.set_xscale("log")
        score.set(
            title=f"{task} on {data.backbone.iloc[0]}",
            ylabel=data[data.task == task].metric.iloc[0],
        )
        count.set(xlabel=key.rpartition(".")[2], ylabel="parameters", yscale="log")
    return panels.with_legend(figure, axes[0][0])


def removal(data: pd.DataFrame) -> Figure:
    """Plot the effect of removing LoRAs.

    Above: score against the number of layers removed, mean over seeds and permutations. Below:
    the loss that removing one layer adds, against its importance.

    Args:
        data: From figure_data.removal.
    """
    tasks = list(dict.fromkeys(data.task))
    figure, axes = panels.grid(2, len(tasks), (4.2, 2.8))
    for (curve, scatter), task in zip(axes.T, tasks, strict=True):
        part = data[(data.task == task) & (data.order != "alone")]
        for i, (order, steps) in enumerate(part.groupby("order", sort=False)):
            groups = steps.groupby("removed").score
            panels.line(curve, groups.mean().index, groups.mean(), order, i, 3, groups.std())
        curve.set(
            title=f"{task} on {data.backbone.iloc[0]}",
            xlabel="layers without LoRA",
            ylabel="score, percent",
        )
        alone = data[(data.task == task) & (data.order == "alone")]
        rho = alone.importance.corr(alone.added, method="spearman")
        scatter.plot(alone.importance, alone.added, "o", color=DARK, markersize=4)
        scatter.axhline(0, color=LIGHT, linewidth=0.7)
        scatter.set(
            xlabel="importance $y$ of the layer",
            ylabel="loss added without it",
            title=f"Spearman's $\\rho$ = {rho:.2f}",
        )
    return panels.with_legend(figure, axes[0][0])
