"""The numbers behind each kind of figure, as tidy frames.

The functions that FIGURES names (experiments.reporting.figures) share two arguments: `frame`, the
runs of an experiment from `results.load`, of which they use the finished ones, and `outputs`, the
folder that holds their results. They raise UserError where a mean over seeds would mix up settings.
"""

from __future__ import annotations

import pandas as pd

from experiments import results
from experiments.common import console
from experiments.config.schema import UserError
from experiments.reporting.measured import check_one_setting, measured, measured_once, value
from experiments.reporting.published import score_at
from experiments.runner import post_hoc


def importances(frame: pd.DataFrame, outputs: str = "") -> pd.DataFrame:
    """Importance per layer. Runs that share a stage 1 count as one measurement.

    Returns:
        Columns: backbone, task, seed, module_type, layer, importance (y_i), kept (the fraction of
        these runs in which the layer kept its own LoRA).
    """
    return measured_once(frame, [])


def distribution(frame: pd.DataFrame, outputs: str, module: int) -> pd.DataFrame:
    """Distribution of ||dW x||^2 over tokens, per layer.

    Args:
        module: The index of the module type to show.

    Returns:
        Columns: backbone, task, method, seed, module_type, layer, log10_from, log10_to, tokens
        (in that bin), mean (g_i).

    Raises:
        UserError: If a method has several runs, whose outlines would overlap.
    """
    if frame[frame.status == results.FINISHED].method.duplicated().any():
        raise UserError(
            "one run of each method is shown; name one task, seed and setting, e.g. task=rte seed=0"
        )
    rows = []
    for run in frame[frame.status == results.FINISHED].itertuples():
        found = post_hoc.distribution(run.id, outputs)
        kind = list(found["counts"])[module]
        edges = found["log10_edges"]
        for layer, counts in found["counts"][kind].items():
            where = (run.backbone, run.task, run.method, run.seed, kind, int(layer))
            bins = zip(edges, edges[1:], counts, strict=False)
            rows += [
                (*where, low, high, count, found["mean"][kind][layer]) for low, high, count in bins
            ]
    names = [
        "backbone",
        "task",
        "method",
        "seed",
        "module_type",
        "layer",
        "log10_from",
        "log10_to",
        "tokens",
        "mean",
    ]
    return pd.DataFrame(rows, columns=names)


def magnitudes(frame: pd.DataFrame, outputs: str, lines: str) -> pd.DataFrame:
    """Importance relative to the most important layer, mean over seeds.

    Args:
        lines: A key whose values are told apart: "task", "seed", or a key of the config.

    Returns:
        Columns: backbone, module_type, layer, `lines`, magnitude (g_i / max_j g_j).
    """
    data = measured_once(frame, [lines] if lines not in ("task", "seed") else [])
    runs = ["backbone", "task", "seed", *({lines} - {"task", "seed"}), "module_type"]
    data["magnitude"] = data.importance / data.groupby(runs).importance.transform("max")
    return data.groupby(
        ["backbone", "module_type", "layer", lines], sort=False, as_index=False
    ).magnitude.mean()


def agreement(frame: pd.DataFrame, outputs: str) -> pd.DataFrame:
    """Spearman's rank correlation of y between tasks, mean over all pairs of seeds.

    A task is compared with itself across its seeds; with one seed that correlation is missing.

    Returns:
        Columns: backbone, module_type, task, other, correlation, pairs.
    """
    rows = []
    for (backbone, kind), part in measured_once(frame, []).groupby(
        ["backbone", "module_type"], sort=False
    ):
        wide = part.pivot_table(index="layer", columns=["task", "seed"], values="importance")
        correlations = wide.corr(method="spearman")
        tasks = list(dict.fromkeys(part.task))
        for task in tasks:
            for other in tasks:
                block = correlations.loc[task, other]
                pairs = [
                    r
                    for a, line in block.iterrows()
                    for b, r in line.items()
                    if task != other or a < b
                ]
                rows.append(
                    (
                        backbone,
                        kind,
                        task,
                        other,
                        sum(pairs) / len(pairs) if pairs else None,
                        len(pairs),
                    )
                )
    return pd.DataFrame(
        rows, columns=["backbone", "module_type", "task", "other", "correlation", "pairs"]
    )


def convergence(frame: pd.DataFrame, outputs: str, key: str) -> pd.DataFrame:
    """Spearman's rank correlation of y with that at the largest value of `key`, for the same seed.

    A seed whose run at the largest planned value is not finished is left out.

    Args:
        key: A numeric key of the config.

    Returns:
        Columns: backbone, task, seed, module_type, `key`, correlation.
    """
    data = measured(frame, [key])
    check_one_setting(data, ["backbone", "task", "seed", key, "module_type", "layer"])
    largest = max(value(run, key) for run in frame.itertuples())
    rows = []
    for where, part in data.groupby(["backbone", "task", "seed", "module_type"], sort=False):
        wide = part.pivot_table(index="layer", columns=key, values="importance")
        if largest in wide:
            rows += [(*where, x, wide[x].corr(wide[largest], method="spearman")) for x in wide]
    return pd.DataFrame(
        rows, columns=["backbone", "task", "seed", "module_type", key, "correlation"]
    )


def kept(frame: pd.DataFrame, outputs: str, key: str, lines: str) -> pd.DataFrame:
    """Number of layers that keep a LoRA of their own, against `key`.

    Args:
        key: A numeric key of the config.
        lines: A key of the config whose values are told apart.

    Returns:
        Columns: backbone, task, module_type, `lines`, `key`, kept and std (over seeds), layers (of
        the model), seeds.

    Raises:
        UserError: If a seed has several measurements at one `key` and value of `lines`.
    """
    data = measured(frame, [key, lines])
    check_one_setting(data, ["backbone", "task", "seed", key, lines, "module_type", "layer"])
    group = ["backbone", "task", "module_type", lines, key]
    runs = data.groupby([*group, "seed"], sort=False, as_index=False).kept.agg(["sum", "size"])
    found = runs.groupby(group, as_index=False).agg(
        kept=("sum", "mean"), std=("sum", "std"), layers=("size", "max"), seeds=("sum", "size")
    )
    return found


def curves(frame: pd.DataFrame, outputs: str, key: str) -> pd.DataFrame:
    """Score and number of trainable parameters against `key`.

    Args:
        key: A numeric key of the config.

    Returns:
        Columns: backbone, task, method, `key`, metric, score and std (percent, at the best epoch,
        over seeds), seeds, adapter (trainable parameters, mean), paper (the published score; NaN
        if there is none).
    """
    finished = frame[(frame.status == results.FINISHED) & frame.best.notna()]
    keyed = {
        key: [value(run, key) for run in finished.itertuples()],
        "best": 100 * finished.best.astype(float),
    }
    finished = finished.assign(**keyed)
    check_one_setting(finished, ["backbone", "task", "method", key, "seed"])
    groups = finished.groupby(
        ["backbone", "task", "method", key, "primary"], sort=False, as_index=False
    )
    data = groups.agg(
        score=("best", "mean"),
        std=("best", "std"),
        seeds=("best", "size"),
        adapter=("adapter", "mean"),
    )
    keys = [data.backbone, data.task, data.method, data[key]]
    data["paper"] = [
        score_at(backbone, task, method, key, x)
        for backbone, task, method, x in zip(*keys, strict=True)
    ]
    return data.rename(columns={"primary": "metric"}).sort_values(
        ["backbone", "task", "method", key]
    )


def removal(frame: pd.DataFrame, outputs: str) -> pd.DataFrame:
    """Loss and score as LoRAs are removed layer by layer.

    Returns:
        Columns: backbone, task, method, seed, order, permutation, removed (number of layers),
        loss, added (loss above that with all layers), score (primary metric, percent), importance.
        The order "alone" removes one layer at a time: `permutation` is its number and
        `importance` its y.
    """
    finished, rows = frame[frame.status == results.FINISHED], []
    check_one_setting(finished, ["backbone", "task", "method", "seed"])
    for run in console.progress(list(finished.itertuples()), "removing layers"):
        found = post_hoc.removal(run.id, outputs)
        where = (run.backbone, run.task, run.method, run.seed)
        for layer, scores in found["alone"].items():
            y = found["importance"][layer]
            rows.append((*where, "alone", int(layer), 1, *_shown(scores, found["whole"]), y))
        for order, lists in found["orders"].items():
            for i, steps in enumerate(lists):
                rows += [
                    (*where, order, i, n, *_shown(s, found["whole"]), None)
                    for n, s in enumerate(steps)
                ]
    names = [
        "backbone",
        "task",
        "method",
        "seed",
        "order",
        "permutation",
        "removed",
        "loss",
        "added",
        "score",
        "importance",
    ]
    return pd.DataFrame(rows, columns=names)


def _shown(scores: dict[str, float], whole: dict[str, float]) -> tuple[float, float, float]:
    return scores["loss"], scores["loss"] - whole["loss"], 100 * scores["score"]
