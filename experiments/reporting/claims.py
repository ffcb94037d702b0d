"""The numbers of docs/evidence.md, computed from results, as texts and Markdown tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments import results
from experiments.plotting.words import words
from experiments.reporting.figure_data import removal
from experiments.reporting.measured import measured
from experiments.reporting.statistics import paired_test
from experiments.reporting.summaries import (
    NOTHING,
    between_tasks,
    load,
    markdown,
    mean,
    mean_and_spread,
    number,
    per_type,
    progress,
    share_of_lora,
    stage1_summary,
)
from experiments.runner import post_hoc

RATIO = "method.sample_ratio"
ABLATIONS = ("no_share", "inverse", "random", "upper_layers")
HALF = "lora_drop, half"
ORDERS = ("least important first", "random", "most important first")


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
        name = words(task)
        shares[name] = share_of_lora(frame[frame.task == task])
        rows.append(
            [
                name,
                part.seeds.iloc[0],
                per_type(part, _own),
                f"{shares[name]:.0f} %",
                per_type(part, lambda row: number(row.effective)),
                per_type(part, _agreement),
            ]
        )
    head = [
        "task",
        "seeds",
        "own LoRA, query / value",
        "of LoRA's parameters",
        "effective",
        "correlation between seeds",
    ]
    means = summary.groupby("module_type")[["own", "effective", "agreement"]].mean()
    return {
        "importance_table": markdown(head, rows),
        "importance_done": progress(outputs, "mpnet_importance"),
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
        "of LoRA's parameters",
        "effective",
        "correlation with the longest",
    ]
    return {
        "stage1_table": markdown(head, rows),
        "stage1_done": progress(outputs, "mpnet_stage1"),
        **found,
    }


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
    return {key: mean(values) for key, values in found.items()}


def _samples(outputs: str | Path) -> dict[str, str]:
    frame = load("mpnet_samples", outputs)
    everything = [config["method"]["sample_ratio"] == 1 for config in frame.config]
    frame = frame[frame.seed.isin(frame.seed[everything])]  # of others there is nothing to compare
    data = measured(frame, [RATIO])
    correlations: dict[tuple[float, str], list[float]] = {}
    for (_, kind), part in data.groupby(["seed", "module_type"]):
        wide = part.pivot(index="layer", columns=RATIO, values="importance")
        for ratio in wide:
            rho = wide[ratio].corr(wide[1.0], method="spearman")
            correlations.setdefault((ratio, kind), []).append(rho)
    summary, rows = stage1_summary(frame, [RATIO]), []
    found = dict[str, str]()
    for ratio, part in summary.groupby(RATIO):
        both = " / ".join(number(mean(correlations[ratio, kind]), 2) for kind in ("q", "v"))
        rows.append([f"{100 * ratio:g} %", part.seeds.iloc[0], per_type(part, _own), both])
        found[f"rho_sample_{100 * ratio:g}"] = both
    head = ["sample", "seeds", "own LoRA, query / value", "correlation with all rows"]
    return {
        "samples_table": markdown(head, rows),
        "samples_done": progress(outputs, "mpnet_samples"),
        **found,
    }


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
    return {"rates_table": markdown(head, rows), "rates_done": progress(outputs, "mpnet_rates")}


def _scores(outputs: str | Path) -> dict[str, str]:
    studies = ("mpnet_scores", "mpnet_ablations")
    frame = pd.concat([load(name, outputs) for name in studies])
    found = {"scores_done": progress(outputs, *studies)}
    labels = [
        run.method + (", half" if run.config["method"].get("num_layers") else "")
        for run in frame.itertuples()
    ]
    frame = frame.assign(label=labels)
    for task in ("cola", "rte"):
        found |= _scores_of(task, frame[frame.task == task])
    others = [label for label in dict.fromkeys(labels) if label not in ("lora", HALF)]
    pairs = [(HALF, "lora"), *((label, HALF) for label in others)]
    by_label = frame.assign(method=frame.label.map(_shown))
    tests = [paired_test(by_label, "best", *map(_shown, pair)) for pair in pairs]
    found["scores_tests"] = "\n".join(f"- {text}" for text in tests if text) or NOTHING
    return found


def _shown(label: str) -> str:
    """A method in words, with what follows its name."""
    method, comma, rest = label.partition(",")
    return words(method) + comma + rest


def _scores_of(task: str, runs: pd.DataFrame) -> dict[str, str]:
    """A table of a task's scores, and the numbers in it."""
    references = {"lora": "lora", "half": HALF}
    rows, found = [], dict[str, str]()
    for label, part in runs.groupby("label", sort=False):
        part = part.set_index("seed")
        name = f"{task}_{label}".replace(", ", "_")
        row = [_shown(label), f"{part.adapter.mean():,.0f}", len(part)]
        row += [mean_and_spread(100 * part[which]) for which in results.AGGREGATES]
        found |= {name: number(100 * part.best.mean()), f"{name}_seeds": str(len(part))}
        for short, reference in references.items():
            other = runs[runs.label == reference].set_index("seed")
            gaps = {
                which: mean_and_spread(100 * (part[which] - other[which]).dropna())
                for which in results.AGGREGATES
            }
            row.append("-" if label == reference else " / ".join(gaps.values()))
            found |= {f"{name}_{which}_minus_{short}": gap for which, gap in gaps.items()}
        rows.append(row)
    head = ["method", "adapter", "seeds", "best epoch", "last epoch"]
    head += [f"minus {other}, best / last" for other in ("LoRA", "half")]
    return {f"{task}_table": markdown(head, rows), **found}


def removal_runs(outputs: str | Path) -> pd.DataFrame:
    """LoRA's runs on CoLA of which the removal of layers is stored; archives have no weights."""
    frame = load("mpnet_removal", outputs).query("task == 'cola'")
    return frame[[post_hoc.stored(id, outputs, "removal") is not None for id in frame.id]]


def _removal(outputs: str | Path) -> dict[str, str]:
    """Scores of LoRA on CoLA as layers lose theirs, in three orders."""
    data = removal(removal_runs(outputs), str(outputs))
    ordered = data[data.order != "alone"]
    scores = ordered.groupby(["removed", "order"]).score.mean().unstack()
    rows = [
        [removed, *(number(row[order]) for order in ORDERS)]
        for removed, row in scores[scores.index % 2 == 0].iterrows()
    ]
    found = {
        f"without_{removed}_{order.split()[0]}": number(scores[order][removed])
        for removed in scores.index
        for order in ORDERS
    }
    alone = data[data.order == "alone"]
    return found | {
        "without_table": markdown(["layers without LoRA", *ORDERS], rows),
        "without_seeds": str(data.seed.nunique()),
        "without_loss": number(alone.importance.corr(alone.added, method="spearman"), 2),
        "without_score": number(alone.importance.corr(-alone.score, method="spearman"), 2),
    }


def _small(outputs: str | Path) -> dict[str, str]:
    """LoRA-drop and its ablations on the built-in model and on MiniLM, which the page compares."""
    frames = [load(name, outputs, mini=True) for name in ("table1", "table7")]
    frames += [load(name, outputs) for name in ("minilm_methods", "minilm_ablations")]
    runs = pd.concat(frames).drop_duplicates("id")
    columns = ["mini_sentiment", "mini_acceptability", "cola"]
    rows = []
    for method in (*("lora", "lora_drop"), *(f"lora_drop_{name}" for name in ABLATIONS)):
        own = runs[runs.method == method]
        cells = [mean_and_spread(100 * own[own.task == task].best) for task in columns]
        rows.append([words(method), *cells])
    head = ["method", "sentiment", "acceptability", "MiniLM, CoLA"]
    found = {"small_table": markdown(head, rows)}
    for (task, _), part in removal(load("layer_removal", outputs, mini=True), str(outputs)).groupby(
        ["task", "seed"]
    ):
        alone = part[part.order == "alone"]
        rho = alone.importance.corr(alone.added, method="spearman")
        found[f"removal_{task}"] = number(rho, 2)
    return found


# each computes some numbers of the page: texts by the name of their placeholder
PARTS = (_importance, _stage1, _samples, _rates, _scores, _removal, _small)
