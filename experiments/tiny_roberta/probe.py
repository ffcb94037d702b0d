"""Are the built-in tasks real tests of adaptation? The figures of README.md, for three seeds each:

    python -m experiments.tiny_roberta.probe

What a constant answer, a frozen backbone with a trained head, and LoRA score after the last epoch of the task's recipe;
and how uneven the layers' importances are that LoRA-drop measures (10 % sample, 3 epochs, T = 0.9).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import get_linear_schedule_with_warmup

from loradrop.backbones import Backbone, head_parameters
from loradrop.data import TaskData
from loradrop.importance import measure
from loradrop.lora import add_lora
from loradrop.selection import select
from loradrop.tasks.base import Task

CONF = Path(__file__).parents[2] / "conf"
TASKS = ("mini_acceptability", "mini_sentiment", "mini_entailment", "mini_similarity")
RANK, SAMPLE_RATIO, SAMPLE_EPOCHS, THRESHOLD = 8, 0.1, 3, 0.9  # as in conf/method/lora_drop.yaml


@dataclass
class Figures:
    """Of one task and seed; scores are in the metric's units."""

    constant: float  # the majority class, or always the same score
    frozen: float
    lora: float
    lora_seconds: float  # training and scoring every epoch
    importance: dict[str, list[float]]  # module type -> y_i of layer 0, 1, ...
    kept: dict[str, list[int]]  # module type -> layers that T keeps


def fresh(backbone: Backbone, task: Task, alpha: float | None, seed: int) -> nn.Module:
    """The pretrained model with a new head; with LoRA too, where alpha is given."""
    torch.manual_seed(seed)
    model, _ = backbone.load(task, None)
    if alpha is not None:
        add_lora(model, RANK, alpha)
        for _, parameter in head_parameters(model):
            parameter.requires_grad_(True)
    return model


def train(model: nn.Module, data: TaskData, recipe: DictConfig, epochs: int, scored: bool) -> float:
    """AdamW, linear schedule. Returns the last epoch's score; `scored`: score every epoch, as a run does."""
    loader, score = data.train_loader(), float("nan")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = epochs * len(loader)
    schedule = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup_ratio * steps), steps)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if scored:
            score = evaluate(model, data)
    return score


@torch.no_grad()
def evaluate(model: nn.Module, data: TaskData) -> float:
    model.eval()
    logits, labels = [], []
    for batch in data.evaluation_loaders()[0]:
        labels.append(batch.pop("labels").numpy())
        logits.append(model(**batch).logits.numpy())
    model.train()
    outputs = data.task.decode(np.concatenate(logits)), np.concatenate(labels)
    return data.task.score({"validation": outputs})[data.task.primary]


def constant_score(data: TaskData) -> float:
    """Of answering every row alike: the most frequent training class, or the mean score."""
    labels, references = np.array(data.train["label"]), np.array(data.evaluation["validation"]["label"])
    answer = labels.mean() if data.task.is_regression else np.bincount(labels).argmax()
    outputs = np.full(len(references), answer), references
    return data.task.score({"validation": outputs})[data.task.primary]


def probe(backbone: Backbone, task: Task, recipe: DictConfig, seed: int) -> Figures:
    _, tokenizer = backbone.load(task, None)
    data = TaskData(task, task.load(None), tokenizer, recipe.max_length, recipe.batch_size, seed)
    frozen = train(fresh(backbone, task, None, seed), data, recipe, recipe.epochs, scored=True)
    start = time.time()
    lora = train(fresh(backbone, task, recipe.lora_alpha, seed), data, recipe, recipe.epochs, scored=True)
    seconds = time.time() - start
    sample = data.of_rows(data.sample(SAMPLE_RATIO, seed))
    model = fresh(backbone, task, recipe.lora_alpha, seed)
    train(model, sample, recipe, SAMPLE_EPOCHS, scored=False)
    importance = measure(model, sample.ordered_train_loader())
    shares = {kind: [round(y, 4) for y in layers.values()] for kind, layers in importance.normalized.items()}
    kept = {kind: list(layers) for kind, layers in select(importance, threshold=THRESHOLD).kept.items()}
    return Figures(constant_score(data), frozen, lora, round(seconds, 1), shares, kept)


def summary(figures: list[Figures]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of what README.md shows."""
    rows: dict[str, list[float]] = {name: [getattr(f, name) for f in figures] for name in ("constant", "frozen", "lora")}
    for kind in figures[0].importance:
        shares = [f.importance[kind] for f in figures]
        rows[f"{kind}_largest_to_smallest"] = [max(y) / max(min(y), 1e-4) for y in shares]
        rows[f"{kind}_layers_kept"] = [len(f.kept[kind]) for f in figures]
    rows["lora_seconds"] = [f.lora_seconds for f in figures]
    return {name: (round(float(np.mean(v)), 3), round(float(np.std(v, ddof=1)), 3)) for name, v in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="the last digits depend on it")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("probe.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = instantiate(OmegaConf.load(CONF / "backbone" / "tiny_roberta.yaml"))
    results = {}
    for name in args.tasks:
        task = instantiate(OmegaConf.load(CONF / "task" / f"{name}.yaml"))
        recipe = OmegaConf.load(CONF / "recipe" / f"tiny_roberta-{name}.yaml")
        figures = [probe(backbone, task, recipe, seed) for seed in args.seeds]
        results[name] = {"summary": summary(figures), "seeds": [asdict(f) for f in figures]}
        print(name, json.dumps(results[name]["summary"], indent=1), flush=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
