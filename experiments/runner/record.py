"""Record a finished training: the numbers of its result, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from experiments.common.files import atomic_write
from experiments.results.store import PREDICTIONS
from experiments.runner.components import RunComponents
from loradrop.checksums import write_beside
from loradrop.heads import parameter_counts
from loradrop.io.files import write_tensors
from loradrop.tasks.base import LABEL, LabelTask
from loradrop.training.module import RunModule


def describe(components: RunComponents, module: RunModule | None) -> dict[str, Any]:
    """The fields of results.Result about what was trained and how well.

    Args:
        components: The objects of the run.
        module: What was trained; None if the run only measured.
    """
    task, report = components.data.task, components.method.result_fields()
    importance, plan = report.get("importance"), report.get("plan")
    return {
        "metrics": module
        and {
            "primary": task.primary,
            "epochs": module.epochs,
            "best": next(
                scores for scores in module.epochs if scores["epoch"] == module.best["epoch"]
            ),
            "last": module.epochs[-1],
        },
        "parameters": {
            **parameter_counts(components.model, report.get("inactive", 0)),
            "lora_parameters": report.get("lora_parameters"),
        },
        "importance": importance and importance.to_dict(),
        "plan": plan and plan.to_dict(),
        "train_rows": len(components.data.train),
        "evaluated_on": {name: len(rows) for name, rows in components.data.evaluation.items()},
        "notes": [
            *components.data.splits.notes,
            *(module.notes() if module else []),
            *(plan.notes if plan else []),
            *report.get("notes", []),
        ],
        "data_fingerprint": components.data.fingerprint,
        "weights_fingerprint": components.weights,
    }


def save(components: RunComponents, module: RunModule | None, folder: Path) -> None:
    """Write importance, plan, predictions, and the best epoch's adapter and head beside the result.

    Args:
        components: The objects of the run.
        module: What was trained; None if the run only measured.
        folder: The run's folder.
    """
    report = components.method.result_fields()
    for name in ("importance", "plan"):
        if name in report:
            with atomic_write(folder / f"{name}.json") as path:
                report[name].save(path)
    if module is None:
        return
    lines = _texts if components.data.task.generates else _labels
    with atomic_write(folder / PREDICTIONS) as path:
        path.write_text(
            "".join(
                json.dumps(line, ensure_ascii=False) + "\n" for line in lines(components, module)
            ),
            encoding="utf-8",
        )
    write_beside(folder / PREDICTIONS)
    if components.config.save_weights:
        with atomic_write(folder / "adapter.safetensors") as path:
            metadata = {
                "epoch": str(module.best["epoch"]),
                "backbone": components.config.backbone.name,
            }
            write_tensors(module.best["state"], path, metadata)


def _texts(components: RunComponents, module: RunModule) -> Iterator[dict[str, Any]]:
    """One row per text generated at the best epoch: split, source, references, prediction."""
    for split, texts in module.best["predictions"].items():
        for row, text in zip(components.data.splits.evaluation[split], texts, strict=True):
            yield {"split": split, **row, "prediction": text}


def _labels(components: RunComponents, module: RunModule) -> Iterator[dict[str, Any]]:
    """One row per row scored at the best epoch: split, row, label, prediction, logits."""
    task = cast(LabelTask, components.data.task)
    for split, logits in module.best["logits"].items():
        labels = components.data.evaluation[split][LABEL][:]
        columns = (
            # a score in the precision in which it was compared
            torch.tensor(labels, dtype=logits.dtype).tolist() if task.is_regression else labels,
            task.decode(logits.numpy()).tolist(),
            logits.tolist(),
        )
        for row, (label, prediction, values) in enumerate(zip(*columns, strict=True)):
            yield {
                "split": split,
                "row": row,
                "label": label,
                "prediction": prediction,
                "logits": values,
            }
