"""docs/evidence.md and docs/questions.md: filled in from the committed results, and no result is
written by hand."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from experiments import claims
from experiments.reporting.answers import best, both, grid
from experiments.reporting.summaries import markdown, mean_correlation, number

# of the paper, of the models and of what was run; a result is never among them
SETUP = {
    "0.15",
    "0.75",
    "2401.11316",
    "6",
    "81",
    "0.001",
    "2.5",
    "855",
    "0",
    "2402.07721",
    "12",
    "768",
    "0.9",
    "2",
    "3",
    "5",
    "7",
    "9",
    "24",
    "243",
    "1",
    "0.0003",
}


@pytest.mark.parametrize("page", claims.PAGES, ids=lambda page: page.name)
def test_no_result_is_written_by_hand(page):
    text = claims.template(page).read_text(encoding="utf-8")
    for pattern in (r"\$\{\w+\}", r"`[^`]*`", r"\]\([^)]*\)", r"all-\S+", r"[A-Za-z]\w*-?\d\S*"):
        text = re.sub(pattern, " ", text)
    numbers = set(re.findall(r"\d[\d.,]*(?:e-?\d+)?", text))
    assert {number.rstrip(".,") for number in numbers} <= SETUP


@pytest.mark.slow
def test_each_page_is_its_template_filled_in_from_the_results():
    assert {page: page.read_text(encoding="utf-8") for page in claims.PAGES} == claims.rendered()
    for name in claims.SHOWN:
        assert (claims.FIGURES / f"{name}.png").is_file()


def test_correlations_are_means_over_pairs():
    data = pd.DataFrame(
        [
            (layer, seed, y)
            for seed, ys in enumerate([[1, 2, 3], [1, 2, 3], [3, 2, 1]])
            for layer, y in enumerate(ys)
        ],
        columns=["layer", "seed", "importance"],
    )
    assert mean_correlation(data, "seed") == pytest.approx((1 - 1 - 1) / 3)
    assert number(mean_correlation(data[data.seed == 0], "seed")) == "-"


def test_a_table_is_markdown():
    assert markdown(["a"], []) == "No run is finished yet."
    assert markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_a_grid_has_a_dash_where_nothing_ran():
    frame = pd.DataFrame(
        [
            ("a", "x", 0.5),
            ("a", "mini_sentiment", 0.2),
            ("a", "x", 0.7),
            ("b", "mini_sentiment", 1),
        ],
        columns=["method", "task", "best"],
    )
    assert grid(frame, "method", "task", best, "method").splitlines()[0::2] == [
        "| method | x | sentiment |",
        "| a | 60.0 ± 14.1 | 20.0 |",
    ]
    assert grid(frame, "method", "task", best, "").endswith("| b | - | 100.0 |")


def test_query_comes_before_value_under_any_name():
    for names in (["q", "v"], ["q_proj", "v_proj"], ["query", "value"]):
        assert both(pd.Series([0.5, 0.25], index=names[::-1])) == "0.25 / 0.50"
