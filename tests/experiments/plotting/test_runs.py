"""The charts that the report and W&B share show the numbers that they are given, in words."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import AxesImage
from matplotlib.text import Text

from experiments.plotting import panels
from experiments.plotting.runs import importance_map, score_against_parameters, training_curves
from experiments.plotting.style import BLACK, VERMILLION, looks, ordered_looks
from experiments.plotting.words import words

SCORES = pd.DataFrame(
    {
        "label": ["LoRA", "LoRA-drop", "linear probe", "mini_method"],
        "metric": "matthews_correlation",
        "score": [60.0, 61.0, 20.0, 50.0],
        "std": [1.0, np.nan, 0.5, 0.5],
        "adapter": [300_000, 150_000, 0, 200_000],
    }
)
PAPER = pd.DataFrame({"label": ["LoRA", "VeRA"], "score": [62.4, 60.9], "adapter": [290e3, 30e3]})


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def importances():
    rows = [
        (row, kind, layer, (layer + 1) / 10, kept)
        for row in ("CoLA", "RTE")
        for kind in ("q", "value")
        for layer, kept in enumerate((1.0, 0.5, 0.0, 1.0))
    ]
    columns = ["row", "module_type", "layer", "importance", "kept"]
    return pd.DataFrame(rows, columns=columns)


def test_a_map_shows_importances_and_the_layers_that_are_kept():
    figure = importance_map(importances())
    images = [axis.findobj(AxesImage)[0] for axis in figure.axes[:2]]
    for axis, image in zip(figure.axes, images, strict=False):
        assert image.get_array().tolist() == [[0.1, 0.2, 0.3, 0.4]] * 2
        assert image.get_clim() == (0, 0.4)  # the same scale, from zero, in all panels
        always, some = axis.lines
        assert sorted(always.get_xdata()) == [0, 0, 3, 3] and list(some.get_xdata()) == [1, 1]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["CoLA", "RTE"]
    assert {"query", "value", "layer", "own LoRA", "own LoRA in some runs"} <= set(texts(figure))
    assert len(figure.axes) == 3  # with the colour bar


def test_where_all_runs_keep_the_same_layers_no_mark_is_explained_in_vain():
    data = importances()
    figure = importance_map(data.assign(kept=data.kept.round()))
    assert "own LoRA in some runs" not in texts(figure)


def test_one_value_far_above_all_others_does_not_pale_a_map():
    data = importances()
    data.loc[5, "importance"] = 2.0
    figure = importance_map(data)
    for axis in figure.axes[:2]:
        (image,) = axis.findobj(AxesImage)
        assert image.get_clim() == (0, 0.4)
        assert matplotlib.colors.to_hex(image.to_rgba([2.0])[0]) == BLACK
    bar = figure.axes[2]
    assert bar.get_ylabel() == "importance $y_i$\nup to 2.00"
    assert bar._colorbar.extend == "max"
    assert importance_map(importances()).axes[2]._colorbar.extend == "neither"


def test_a_legend_names_what_shows_the_spread_and_only_where_something_does():
    named = {
        spread: set(texts(score_against_parameters(SCORES.assign(std=spread), PAPER)))
        for spread in (1.0, np.nan)
    }
    assert panels.BAR in named[1.0] and panels.BAR not in named[np.nan]
    figure, ((axis,),) = panels.grid(1, 1)
    look = looks(["a"])["a"]
    panels.line(axis, [1, 2], pd.Series([1, 2]), "a", look, pd.Series([np.nan, np.nan]))
    assert panels.BAND not in texts(panels.legend(figure, axis))
    panels.line(axis, [1, 2], pd.Series([1, 2]), "a", look, pd.Series([0.5, 0.5]))
    assert panels.BAND in texts(panels.legend(figure, axis))


def test_scores_have_loras_as_a_line_and_the_papers_hollow():
    figure = score_against_parameters(SCORES, PAPER)
    (axis,) = figure.axes
    flat = {line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [0, 1]}
    assert flat == {60.0, 20.0}  # LoRA's score; the linear probe has no adapter
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [
        (290e3, 62.4),
        (30e3, 60.9),
    ]
    assert hollow[0].get_color() == BLACK and axis.get_xscale() == "log"
    assert axis.get_ylabel() == "Matthews correlation, %"
    assert score_against_parameters(SCORES, PAPER[:0]).axes[0].get_xscale() == "linear"


def test_curves_have_bands_only_where_there_are_seeds():
    columns = ["label", "metric", "epoch", "score", "std", "loss", "loss_std"]
    rows = [("LoRA", "accuracy", e, 50 + e, 1.0, 1 / e, 0.1) for e in (1, 2, 3)]
    rows += [("VeRA", "accuracy", e, 40 + e, np.nan, 1 / e, np.nan) for e in (1, 2, 3)]
    score, loss = training_curves(pd.DataFrame(rows, columns=columns)).axes
    assert [list(line.get_ydata()) for line in score.lines] == [[51, 52, 53], [41, 42, 43]]
    assert len(score.collections) == len(loss.collections) == 1
    assert all(tick == round(tick) for tick in loss.get_xticks())


@pytest.mark.parametrize(("values", "expected"), [((1, 9.9), "linear"), ((1, 10), "log")])
def test_less_than_a_decade_is_linear(values, expected):
    _, ((axis,),) = panels.grid(1, 1)
    panels.scale(axis.xaxis, pd.Series(values))
    assert (axis.get_xscale(), axis.get_yscale()) == (expected, "linear")


def test_lines_can_be_told_apart_and_lora_drop_is_the_same_everywhere():
    names = ["LoRA", "LoRA-drop", *(f"method {i}" for i in range(25))]
    found = looks(names)
    assert len({tuple(look.items()) for look in found.values()}) == len(names)
    assert looks(["x", "LoRA-drop"])["LoRA-drop"] == found["LoRA-drop"]
    assert found["LoRA-drop"]["color"] == VERMILLION
    ordered = ordered_looks([1, 0.5, 0.1])
    assert list(ordered) == ["0.1", "0.5", "1"]
    light = [sum(matplotlib.colors.to_rgb(look["color"])) for look in ordered.values()]
    assert light == sorted(light)


def test_no_name_of_a_config_is_drawn():
    assert words("matthews_correlation") == "Matthews correlation"
    assert words("method.rank") == "rank r" and words("some_new_task") == "some new task"
    for figure in (importance_map(importances()), score_against_parameters(SCORES[:3], PAPER)):
        for text in texts(figure):
            assert "_" not in re.sub(r"\$.*?\$", "", text), text


def test_settings_of_matplotlib_stay_as_they_are():
    before = dict(matplotlib.rcParams)
    importance_map(importances())
    assert dict(matplotlib.rcParams) == before
