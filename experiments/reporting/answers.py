"""The numbers of docs/questions.md, computed from results, as texts and Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.config.catalog import catalog
from experiments.reporting.figure_data import agreement, convergence, removal
from experiments.reporting.measured import measured, value
from experiments.reporting.statistics import paired_tests
from experiments.reporting.summaries import (
    between_tasks,
    load,
    markdown,
    mean_and_spread,
    number,
    share_of_lora,
    stage1_summary,
)

TASKS = {
    "mini_sentiment": "sentiment",
    "mini_acceptability": "acceptability",
    "mini_similarity": "similarity",
    "mini_entailment": "entailment",
    "mini_table2text": "records in words",
    "mini_summary": "summaries",
}
RATIO = "method.sample_ratio"
ORDERS = ("least important first", "random", "most important first")
# columns of the table over models, query / value: what it is, and its decimal places
MEASURES = {
    "own LoRA": ("own", 1),
    "effective": ("effective", 1),
    "between seeds": ("agreement", 2),
    "between tasks": ("tasks", 2),
    "with depth": ("depth", 2),
}
GENERATION = ["mini_table2text", "mini_summary"]
# whose stage 1 at T = 0.9 is compared over models: experiment, mini form
MODELS = {
    "built-in encoder": ("cross_task_stability", True),
    "built-in decoder": ("understanding_generation", True),
    "MiniLM": ("minilm_glue", False),
    "MPNet-base": ("mpnet_importance", False),
}


def grid(
    frame: pd.DataFrame, rows: str, columns: str, cell: Callable[[pd.DataFrame], str], corner: str
) -> str:
    """Format a Markdown table of runs.

    Args:
        frame: Finished runs.
        rows: The column of `frame` whose values are the rows, in the order of the runs.
        columns: The column of `frame` whose values are the columns, likewise.
        cell: Makes a cell's text from its runs; it is "-" where there are none.
        corner: The head of the first column.
    """
    names = list(dict.fromkeys(frame[columns]))
    lines = []
    for row, part in frame.groupby(rows, sort=False):
        cells = [part[part[columns] == name] for name in names]
        lines.append([row, *("-" if runs.empty else cell(runs) for runs in cells)])
    return markdown([corner, *(TASKS.get(name, name) for name in names)], lines)


def best(runs: pd.DataFrame) -> str:
    """The score at the best epoch in percent: mean, and deviation over seeds."""
    return mean_and_spread(100 * runs.best.astype(float))


def _models(outputs: str | Path) -> dict[str, str]:
    """What stage 1 finds at T = 0.9, a row per model."""
    rows, found = [], dict[str, str]()
    for name, (study, mini) in MODELS.items():
        frame = load(study, outputs, mini)
        data = measured(frame, [])
        means = stage1_summary(frame, []).groupby("module_type").mean(numeric_only=True)
        depth = data.groupby(["task", "seed", "module_type"])[["layer", "importance"]].apply(
            lambda part: part.layer.corr(part.importance, method="spearman")
        )
        means = means.assign(tasks=between_tasks(data), depth=depth.groupby("module_type").mean())
        rows.append(
            [
                name,
                data.layer.nunique(),
                data.task.nunique(),
                *(both(means[column], digits) for column, digits in MEASURES.values()),
            ]
        )
        found[f"seeds_{study}"] = both(means.agreement)
    return found | {"models_table": markdown(["model", "layers", "tasks", *MEASURES], rows)}


def _kinds(outputs: str | Path) -> dict[str, str]:
    """Agreement of importances within and between understanding and generation."""
    data = agreement(load("understanding_generation", outputs, mini=True), str(outputs))
    generates, other = data.task.isin(GENERATION), data.other.isin(GENERATION)
    same = data.task == data.other
    groups = {
        "seeds_generation": same & generates,
        "seeds_understanding": same & ~generates,
        "generation": ~same & generates & other,
        "understanding": ~same & ~generates & ~other,
        "between": generates != other,
    }
    return {
        f"kinds_{name}": both(data[rows].groupby("module_type").correlation.mean())
        for name, rows in groups.items()
    }


def _removal(outputs: str | Path) -> dict[str, str]:
    """Scores with half of the LoRAs removed, a row per task."""
    frames = [
        removal(load(study, outputs, mini=True), str(outputs))
        for study in ("layer_removal", "layer_removal_generation")
    ]
    rows = []
    for task, part in pd.concat(frames).groupby("task", sort=False):
        alone = part[part.order == "alone"]
        steps = part[part.order != "alone"].groupby(["order", "removed"]).score.mean()
        scores = [steps["random", 0], *(steps[order, len(alone) // 2] for order in ORDERS)]
        rho = alone.importance.corr(alone.added, method="spearman")
        rows.append([TASKS[task], *(number(score) for score in scores), number(rho, 2)])
    head = [
        "task",
        "with all",
        *(f"half, {order}" for order in ORDERS),
        "importance and added loss",
    ]
    return {"removal_table": markdown(head, rows)}


def _samples(outputs: str | Path) -> dict[str, str]:
    """Agreement of samples' importances with those of all rows, over tasks and seeds."""
    frame = load("sampling_stability", outputs, mini=True)
    data = convergence(frame, str(outputs), key=RATIO)
    part = data[data[RATIO] < data[RATIO].max()]
    means = part.groupby([RATIO, "module_type"]).correlation.mean()
    rows = [[f"{100 * ratio:g} %", both(means[ratio])] for ratio in part[RATIO].unique()]
    return {"sampling_table": markdown(["sample", "built-in encoder, query / value"], rows)}


def _sweeps(outputs: str | Path) -> dict[str, str]:
    """Scores over the threshold and over the rank."""
    thresholds = load("threshold_sensitivity", outputs, mini=True)
    ranks = pd.concat(
        load(study, outputs, mini=True).assign(scale=scale)
        for study, scale in {
            "rank_study": "fixed alpha",
            "rank_study_scaled": "alpha = 2 r",
        }.items()
    )
    labels = ranks.method + ", " + ranks.scale
    return {
        "threshold_table": grid(
            _with(thresholds, "T", "method.threshold"), "T", "task", _best_and_share, "T"
        ),
        "rank_table": grid(
            _with(ranks.assign(label=labels), "rank", "method.rank"), "label", "rank", best, "rank"
        ),
    }


def _tests(outputs: str | Path) -> dict[str, str]:
    """Tables of the studies that end with paired tests, and those tests."""
    found = {}
    for study, paired in ((entry.name, entry.paired) for entry in catalog().values()):
        if paired is None:
            continue
        frame = load(study, outputs, mini=True)
        name = paired.key.partition(".")[2]
        lines = paired_tests(frame, "best", paired.key, paired.against)
        found[f"{study}_table"] = grid(_with(frame, name, paired.key), name, "task", best, name)
        found[f"{study}_tests"] = "\n".join(f"- {line}" for line in lines or ["No pair yet."])
    return found


def _scores(outputs: str | Path) -> dict[str, str]:
    """Scores of every method, mean over tasks, and PRILoRA's ablations."""
    found = {}
    for study, prefix in {"mini_methods": "labels", "mini_nlg": "texts"}.items():
        frame = load(study, outputs)
        for method, runs in frame.groupby("method"):
            if set(runs.task) == set(frame.task):
                found[f"{prefix}_{method}"] = number(100 * runs.best.mean())
                found[f"{prefix}_{method}_size"] = f"{runs.adapter.mean():,.0f}"
    ablations = load("prilora_ablations", outputs, mini=True)
    return found | {"prilora_table": grid(ablations, "method", "task", best, "method")}


def _with(frame: pd.DataFrame, column: str, key: str) -> pd.DataFrame:
    """Add a key of the config as a column of texts."""
    values = [value(run, key) for run in frame.itertuples()]
    return frame.assign(**{column: [f"{x:g}" if isinstance(x, float) else str(x) for x in values]})


def _best_and_share(runs: pd.DataFrame) -> str:
    return f"{best(runs)} ({share_of_lora(runs):.0f} %)"


def both(by_type: pd.Series, digits: int = 2) -> str:
    """Join the numbers of query and value, whose names sort in this order in every family."""
    return " / ".join(number(one, digits) for one in by_type.sort_index())


# each computes some numbers of the page: texts by the name of their placeholder
PARTS = (_models, _kinds, _removal, _samples, _sweeps, _tests, _scores)
