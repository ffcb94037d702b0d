"""The charts of `experiments.report`: those that a set of runs has, as described images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd

from experiments import results
from experiments.config.catalog import Figure
from experiments.config.schema import UserError
from experiments.plotting import runs as plots
from experiments.plotting.words import words
from experiments.reporting import run_data
from experiments.reporting.figures import IMPORTANCES, figure_kind
from experiments.runner import post_hoc

DPI = 96  # of a browser's pixels
WIDE = 540  # pixels
REPEATABLE = {"svg.hashsalt": "loradrop"}  # the same data gives the same file


@dataclass(frozen=True)
class Chart:
    """An image of the page.

    Attributes:
        caption: What it shows.
        alt: What is to be seen, for those who do not see it.
        source: A data URI.
        width: In pixels.
        height: In pixels.
    """

    caption: str
    alt: str
    source: str
    width: int
    height: int

    @property
    def is_wide(self) -> bool:
        """Whether a phone has to scroll it, for its text would be too small to read."""
        return self.width > WIDE


def charts(finished: pd.DataFrame, name: str, has_table: bool) -> Iterator[Chart]:
    """Draw what there is to draw of finished runs.

    Args:
        finished: Finished runs, from `results.load`.
        name: The experiment; "" if there is none.
        has_table: Whether scores and training curves are shown.
    """
    runs = run_data.labelled(finished)
    for backbone, data in run_data.importance_rows(runs).groupby("backbone", sort=False):
        caption = f"Importance of each layer of {words(backbone)}, mean over seeds"
        yield _chart(plots.importance_map(data), caption, _described_map(data))
    if not has_table:
        return
    scores, epochs = run_data.scores(runs), run_data.epochs(runs)
    paper = run_data.paper_scores(name, scores)
    for (backbone, task), data in scores.groupby(["backbone", "task"], sort=False):
        where = f"{words(task)} on {words(backbone)}"
        if data.label.nunique() > 1:
            own = paper[(paper.backbone == backbone) & (paper.task == task)]
            drawn = plots.score_against_parameters(data, own)
            yield _chart(
                drawn,
                f"Score against parameters, mean over seeds, {where}",
                _described_scores(data),
            )
        curves = epochs[(epochs.backbone == backbone) & (epochs.task == task)]
        if curves.epoch.nunique() > 1:
            alt = _described_curves(curves)
            yield _chart(
                plots.training_curves(curves), f"Training curves, mean over seeds, {where}", alt
            )


def own_figure(frame: pd.DataFrame, outputs: str, figure: Figure) -> Iterator[Chart]:
    """Draw the figure that the catalogue names, if runs have what it shows and `charts` does not.

    Args:
        frame: Runs, from `results.load`.
        outputs: The folder of results.
        figure: From the catalogue.

    Raises:
        UserError: If the runs do not fit one figure, or their models were not measured yet.
    """
    finished = frame[frame.status == results.FINISHED]
    if finished.empty or figure.kind == IMPORTANCES.kind:
        return
    if figure.kind in results.ANALYSES and not all(
        post_hoc.stored(id, outputs, figure.kind) for id in finished.id
    ):
        raise UserError("the figure needs a measurement of each model, which this command makes")
    kind = figure_kind(figure)
    data = kind.data(frame, outputs, **figure.arguments)
    if len(data):
        caption = kind.caption + _arguments(figure)
        models = " and ".join(map(words, dict.fromkeys(data.backbone)))
        alt = f"{caption}, {models}. The command experiments.figure saves its numbers as CSV."
        yield _chart(kind.plot(data, **figure.arguments), caption, alt)


def _arguments(figure: Figure) -> str:
    """What the figure is drawn against."""
    texts = [words(value) for value in figure.arguments.values() if isinstance(value, str)]
    return f", by {' and '.join(texts)}" if texts else ""


def _described_map(data: pd.DataFrame) -> str:
    parts = []
    for (row, kind), layers in data.groupby(["row", "module_type"], sort=False):
        top = layers.loc[layers.importance.idxmax()]
        own = ", ".join(str(layer) for layer in layers.layer[layers.kept > 0.5]) or "none"
        text = f"{row}, {words(kind)}: layer {top.layer} matters most ({top.importance:.2f})"
        parts.append(f"{text}; own LoRA: {own}")
    return ". ".join(parts)


def _described_scores(data: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.label}: {row.score:.1f} with {row.adapter:,.0f} parameters"
        for row in data.itertuples()
    )


def _described_curves(data: pd.DataFrame) -> str:
    last = data.groupby("label", sort=False).tail(1)
    return "; ".join(
        f"{row.label}: {row.score:.1f} at epoch {row.epoch}, loss {row.loss:.2f}"
        for row in last.itertuples()
    )


def _chart(figure: Any, caption: str, alt: str) -> Chart:
    file = io.BytesIO()
    with matplotlib.rc_context(REPEATABLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    width, height = (round(DPI * inches) for inches in figure.get_size_inches())
    source = "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
    return Chart(caption, alt, source, width, height)
