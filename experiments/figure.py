"""The importance distribution of an experiment's LoRA-drop runs, from their result files.

    python -m experiments.figure demo                 save outputs/figures/demo.png, and its data as demo.csv
    python -m experiments.figure demo --format pdf

One row of panels for each backbone and task, one panel for each module type: y_i = g_i / sum_j g_j of every layer, mean over
seeds with its standard deviation. Filled bars kept their own LoRA in most of the runs, hatched ones did not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from experiments import results, show
from experiments.command import guarded, parse
from experiments.config import UserError
from experiments.files import replacing

FORMATS = ("png", "pdf", "svg")


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, FORMATS, "png")
    frame = results.load(options.overrides)
    data = importances(frame)
    if data.empty:
        show.failed(f"{options.experiment}: no finished run measured importances; start with: {options.command}")
        return 1
    path = Path(options.outputs) / "figures" / f"{options.experiment}.{options.format}"
    with replacing(path.with_suffix(".csv")) as file:
        data.to_csv(file, index=False)
    with replacing(path) as file:
        draw(data).savefig(file, format=options.format, dpi=160, bbox_inches="tight")
    show.console.print(f"saved as {path}, its data as {path.with_suffix('.csv')}", soft_wrap=True)
    return 0


def importances(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each layer of each measurement; runs that share a stage 1 are one measurement.

    Columns: backbone, task, seed, module_type, layer, importance (y_i), kept (share of these runs in which the layer kept an
    own LoRA). UserError: several measurements of one seed, which a figure over seeds would mix up.
    """
    rows = []
    for run in frame[frame.status == results.FINISHED].itertuples():
        importance, plan = run.result["importance"], run.result["plan"]
        for kind, layers in (importance["normalized"] if importance and plan else {}).items():
            for layer, value in layers.items():
                kept = int(layer) in plan["kept"][kind]
                rows.append((run.backbone, run.task, run.seed, kind, int(layer), value, kept))
    place = ["backbone", "task", "seed", "module_type", "layer"]
    data = pd.DataFrame(rows, columns=[*place, "importance", "kept"])
    data = data.groupby([*place, "importance"], sort=False, as_index=False).kept.mean()
    twice = data[data.duplicated(place)]
    if len(twice):
        backbone, task, seed = twice.iloc[0][["backbone", "task", "seed"]]
        text = f"{task} on {backbone}, seed {seed}, was measured in several settings; name one, e.g. method.rank=8"
        raise UserError(text)
    return data


def draw(data: pd.DataFrame):
    """A matplotlib figure of `importances`; legible in greyscale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(data.groupby(["backbone", "task"], sort=False))
    kinds = list(dict.fromkeys(data.module_type))
    figure, axes = plt.subplots(
        len(rows), len(kinds), figsize=(4.2 * len(kinds), 2.7 * len(rows)), squeeze=False, sharey="row"
    )
    for line, ((backbone, task), part) in zip(axes, rows, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            layers = part[part.module_type == kind].groupby("layer")
            mean, spread, kept = layers.importance.mean(), layers.importance.std(), layers.kept.mean() > 0.5
            bars = axis.bar(mean.index, mean, yerr=spread.fillna(0), capsize=2, color="0.35", edgecolor="black")
            for bar, own in zip(bars, kept, strict=True):
                if not own:
                    bar.set(facecolor="white", hatch="////")
            axis.set(title=f"{kind}, {task} on {backbone}", xlabel="layer", xticks=mean.index)
        line[0].set_ylabel("importance $y_i$")
    handles = [
        plt.Rectangle((0, 0), 1, 1, fc="0.35", ec="black"),
        plt.Rectangle((0, 0), 1, 1, fc="white", ec="black", hatch="////"),
    ]
    figure.legend(handles, ["own LoRA", "shared or none"], loc="outside upper center", ncols=2, frameon=False)
    figure.set_layout_engine("constrained")
    return figure


if __name__ == "__main__":
    sys.exit(guarded(main))
