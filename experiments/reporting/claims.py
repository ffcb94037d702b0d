"""The numbers of docs/evidence.md, computed from results, as texts and Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import results
from experiments.reporting.figure_data import removal
from experiments.reporting.measured import measured

RATIO = "method.sample_ratio"
ABLATIONS = ("no_share", "inverse", "random", "upper_layers")
TASKS = {
    "cola": "CoLA",
    "rte": "RTE",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "qqp": "QQP",
    "sst2": "SST-2",
}


def facts(outputs: str | Path) -> dict[str, str]:
    """Compute every number of the page.

    Args:
        outputs: The folder of results.

    Returns:
        Texts by the name of their placeholder.
    """
    found: dict[str, str] = {}
    for add in (_importance, _stage1, _samples, _rates, _scores, _small):
        found |= add(outputs)
    return found


def load(name: str, outputs: str | Path, mini: bool = False) -> pd.DataFrame:
    """The finished runs of an experiment, or of its mini form; empty if there are none."""
    frame = results.load(name, outputs=outputs, mini=mini)
    return frame[frame.status == results.FINISHED]


def stage1_summary(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """What stage 1 found, over seeds: a row per task, setting and module type.

    Args:
        frame: Finished runs.
        keys: Keys of the config that tell settings apart.

    Returns:
        Columns: task, the keys, module_type, seeds, own (layers with a LoRA of their own, mean),
        least and most (over seeds), effective (1 / sum of y squared: the number of equally
        important layers that would be as uneven), agreement (Spearman's correlation between seeds,
        mean over pairs; missing with one seed).
    """
    data = measured(frame, list(keys))
    group = ["task", *keys, "module_type"]
    runs = data.groupby([*group, "seed"], sort=False, as_index=False).agg(
        own=("kept", "sum"), effective=("importance", lambda y: 1 / (y**2).sum())
    )
    found = runs.groupby(group, sort=False).agg(
        seeds=("own", "size"),
        own=("own", "mean"),
        least=("own", "min"),
        most=("own", "max"),
        effective=("effective", "mean"),
    )
    between = data.groupby(group, sort=False)[["layer", "seed", "importance"]].apply(
        lambda part: mean_correlation(part, "seed")
    )
    return found.assign(agreement=between).reset_index()


def mean_correlation(data: pd.DataFrame, column: str) -> float:
    """Spearman's correlation of importances, mean over all pairs of values of a column.

    Args:
        data: Columns: layer, importance, and `column`, of one module type.
        column: What is compared, e.g. "seed".

    Returns:
        The mean; NaN if there is one value only.
    """
    matrix = data.pivot(index="layer", columns=column, values="importance").corr("spearman")
    pairs = [matrix.iloc[i, j] for i in range(len(matrix)) for j in range(i)]
    return _mean(pairs)


def between_tasks(data: pd.DataFrame) -> dict[str, float]:
    """Spearman's correlation between tasks, mean over pairs of tasks and over seeds, by type.

    Args:
        data: From `measured`, of one setting.
    """
    found = {}
    for kind, part in data.groupby("module_type", sort=False):
        whole = part[part.groupby("seed").task.transform("nunique") == part.task.nunique()]
        found[kind] = whole.groupby("seed")[["layer", "task", "importance"]].apply(
            lambda one: mean_correlation(one, "task")
        )
    return {kind: float(by_seed.mean()) for kind, by_seed in found.items()}


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table; a sentence where there are no rows."""
    if not rows:
        return "No run is finished yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def share_of_lora(frame: pd.DataFrame) -> float:
    """The adapter's parameters in percent of LoRA's, mean over runs."""
    return float((100 * frame.adapter / frame.lora_parameters).mean())


def hours(frame: pd.DataFrame) -> str:
    """The wall time of all runs."""
    return f"{frame.seconds.sum() / 3600:.1f}"


def number(value: float, digits: int = 1) -> str:
    """Format a number; "-" where there is none."""
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def per_type(summary: pd.DataFrame, cell: Callable[[Any], str]) -> str:
    """Join the cells of query and value, in this order."""
    return " / ".join(cell(row) for row in summary.sort_values("module_type").itertuples())


def _own(row: Any) -> str:
    spread = "" if row.least == row.most else f" ({row.least} to {row.most})"
    return number(row.own) + spread


def _agreement(row: Any) -> str:
    return number(row.agreement, 2)


def _importance(outputs: str | Path) -> dict[str, str]:
    frame = load("mpnet_importance", outputs)
    summary = stage1_summary(frame, [])
    rows, shares = [], dict[str, float]()
    for task, part in summary.groupby("task", sort=False):
        shares[TASKS[task]] = share_of_lora(frame[frame.task == task])
        rows.append(
            [
                TASKS[task],
                part.seeds.iloc[0],
                per_type(part, _own),
                f"{shares[TASKS[task]]:.0f} %",
                per_type(part, lambda row: number(row.effective)),
                per_type(part, _agreement),
            ]
        )
    head = ["task", "seeds", "own LoRA, query / value", "of LoRA's", "effective", "between seeds"]
    means = summary.groupby("module_type")[["own", "effective", "agreement"]].mean()
    return {
        "importance_table": markdown(head, rows),
        "importance_runs": str(len(frame)),
        "importance_tasks": str(frame.task.nunique()),
        "importance_hours": hours(frame),
        "share_least": _share_and_task(min(shares, key=shares.__getitem__), shares),
        "share_most": _share_and_task(max(shares, key=shares.__getitem__), shares),
        **{f"own_{kind}": number(row.own) for kind, row in means.iterrows()},
        **{f"effective_{kind}": number(row.effective) for kind, row in means.iterrows()},
        **{f"seeds_{kind}": number(row.agreement, 2) for kind, row in means.iterrows()},
        **{
            f"tasks_{kind}": number(value, 2)
            for kind, value in between_tasks(measured(frame, [])).items()
        },
    }


def _share_and_task(task: str, shares: dict[str, float]) -> str:
    return f"{shares[task]:.0f} % ({task})"


def _stage1(outputs: str | Path) -> dict[str, str]:
    frame = load("mpnet_stage1", outputs)
    frame = frame.assign(rate=[config["recipe"]["learning_rate"] for config in frame.config])
    frame = frame.assign(steps=[config["method"]["sample_steps"] for config in frame.config])
    summary = stage1_summary(frame, ["rate", "steps"])
    with_longest = _with_longest(frame)
    rows, found = [], dict[str, str]()
    for (rate, steps), part in summary.groupby(["rate", "steps"]):
        share = share_of_lora(frame[(frame.rate == rate) & (frame.steps == steps)])
        correlations = " / ".join(
            number(with_longest.get((rate, steps, kind), float("nan")), 2) for kind in ("q", "v")
        )
        rows.append(
            [
                f"{rate:g}",
                steps,
                part.seeds.iloc[0],
                per_type(part, _own),
                f"{share:.0f} %",
                per_type(part, lambda row: number(row.effective)),
                correlations,
            ]
        )
        name = f"{rate:g}_{steps}".replace(".", "_").replace("-", "_")
        found |= {f"share_{name}": f"{share:.0f}", f"rho_{name}": correlations}
    head = [
        "learning rate",
        "steps",
        "seeds",
        "own LoRA, query / value",
        "of LoRA's",
        "effective",
        "with the longest",
    ]
    return {"stage1_table": markdown(head, rows), "stage1_hours": hours(frame), **found}


def _with_longest(frame: pd.DataFrame) -> dict[tuple[float, int, str], float]:
    """Spearman's correlation with the longest stage 1 of the same seed and rate, over seeds."""
    data = measured(frame, ["rate", "steps"])
    found: dict[tuple[float, int, str], list[float]] = {}
    for (rate, _, kind), part in data.groupby(["rate", "seed", "module_type"]):
        wide = part.pivot(index="layer", columns="steps", values="importance")
        longest = max(data.steps)
        for steps in wide if longest in wide else ():
            rho = wide[steps].corr(wide[longest], method="spearman")
            found.setdefault((rate, steps, kind), []).append(rho)
    return {key: _mean(values) for key, values in found.items()}


def _samples(outputs: str | Path) -> dict[str, str]:
    frame = load("mpnet_samples", outputs)
    data = measured(frame, [RATIO])
    correlations: dict[tuple[float, str], list[float]] = {}
    for (_, kind), part in data.groupby(["seed", "module_type"]):
        wide = part.pivot(index="layer", columns=RATIO, values="importance")
        for ratio in wide if 1.0 in wide else ():
            rho = wide[ratio].corr(wide[1.0], method="spearman")
            correlations.setdefault((ratio, kind), []).append(rho)
    summary, rows = stage1_summary(frame, [RATIO]), []
    for ratio, part in summary.groupby(RATIO):
        if (ratio, "q") not in correlations:  # there is nothing to compare it with yet
            continue
        means = [_mean(correlations[ratio, kind]) for kind in ("q", "v")]
        cells = [f"{100 * ratio:g} %", part.seeds.iloc[0], per_type(part, _own)]
        rows.append([*cells, " / ".join(number(mean, 2) for mean in means)])
    head = ["sample", "seeds", "own LoRA, query / value", "with all rows"]
    return {"samples_table": markdown(head, rows), "samples_hours": hours(frame)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _rates(outputs: str | Path) -> dict[str, str]:
    frame = load("mpnet_rates", outputs)
    rows = [
        [
            f"{run.config['recipe']['learning_rate']:g}",
            number(100 * run.best),
            number(100 * run.last),
        ]
        for run in frame.itertuples()
    ]
    head = ["learning rate", "best epoch", "last epoch"]
    return {"rates_table": markdown(head, rows), "rates_hours": hours(frame)}


def _scores(outputs: str | Path) -> dict[str, str]:
    frame = pd.concat([load(name, outputs) for name in ("mpnet_scores", "mpnet_ablations")])
    found = {"scores_runs": str(len(frame)), "scores_hours": hours(frame)}
    for task in ("cola", "rte"):
        runs = frame[frame.task == task]
        labels = [
            run.method + (", half" if run.config["method"].get("num_layers") else "")
            for run in runs.itertuples()
        ]
        found |= _scores_of(task, runs.assign(label=labels))
    return found


def _scores_of(task: str, runs: pd.DataFrame) -> dict[str, str]:
    """A table of a task's scores, and the numbers in it."""
    lora = runs[runs.label == "lora"].set_index("seed")
    rows, found = [], dict[str, str]()
    for label, part in runs.groupby("label", sort=False):
        part = part.set_index("seed")
        cells = {which: _mean_and_spread(100 * part[which]) for which in results.AGGREGATES}
        paired = part.index.intersection(lora.index)
        difference = 100 * (part.best[paired] - lora.best[paired])
        compared = "-" if label == "lora" else _mean_and_spread(difference)
        rows.append([label, f"{part.adapter.mean():,.0f}", len(part), *cells.values(), compared])
        name = f"{task}_{label}".replace(", ", "_")
        found |= {name: number(100 * part.best.mean()), f"{name}_minus_lora": compared}
    head = ["method", "adapter", "seeds", "best epoch", "last epoch", "best, minus LoRA's"]
    return {f"{task}_table": markdown(head, rows), **found}


def _mean_and_spread(scores: pd.Series) -> str:
    spread = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
    return number(scores.mean()) + spread


def _small(outputs: str | Path) -> dict[str, str]:
    """LoRA-drop and its ablations on the built-in model and on MiniLM, which the page compares."""
    frames = [load(name, outputs, mini=True) for name in ("table1", "table7")]
    frames += [load(name, outputs) for name in ("minilm_methods", "minilm_ablations")]
    runs = pd.concat(frames).drop_duplicates("id")
    columns = ["mini_sentiment", "mini_acceptability", "cola"]
    rows = []
    for method in (*("lora", "lora_drop"), *(f"lora_drop_{name}" for name in ABLATIONS)):
        own = runs[runs.method == method]
        cells = [_mean_and_spread(100 * own[own.task == task].best) for task in columns]
        rows.append([method, *cells])
    head = ["method", "sentiment", "acceptability", "MiniLM, CoLA"]
    found = {"small_table": markdown(head, rows)}
    for (task, _), part in removal(load("layer_removal", outputs, mini=True), str(outputs)).groupby(
        ["task", "seed"]
    ):
        alone = part[part.order == "alone"]
        rho = alone.importance.corr(alone.added, method="spearman")
        found[f"removal_{task}"] = number(rho, 2)
    return found
