"""LoRA-drop as one would write it around PEFT and transformers' Trainer, without this project.

The naive form that the sweep's benchmark compares with: one process per run, stage 1 in each.

    python plain_peft.py <model> <train.jsonl> <dev.jsonl> --strategy importance --threshold 0.9
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.lora import Linear
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

RANK, SAMPLE, STAGE1_EPOCHS = 8, 0.1, 3


def train(given: argparse.Namespace, model: Any, rows: Dataset, epochs: int) -> Trainer:
    arguments = TrainingArguments(
        given.folder,
        per_device_train_batch_size=given.batch_size,
        per_device_eval_batch_size=2 * given.batch_size,
        num_train_epochs=epochs,
        learning_rate=given.learning_rate,
        weight_decay=0.1,
        eval_strategy="epoch" if rows is given.train else "no",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=given.seed,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=given.dev,
        data_collator=DataCollatorWithPadding(given.tokenizer),
        compute_metrics=lambda p: {"accuracy": float((p[0].argmax(-1) == p[1]).mean())},
    )
    trainer.train()
    return trainer


def fresh(given: argparse.Namespace) -> Any:
    torch.manual_seed(given.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        given.model, num_labels=2, dtype=torch.float32
    )
    config = LoraConfig(
        TaskType.SEQ_CLS, r=RANK, lora_alpha=given.alpha, target_modules=["query", "value"]
    )
    return get_peft_model(model, config)


def norms(given: argparse.Namespace, model: Any, rows: Dataset) -> dict[str, float]:
    """Average ||B A x||^2 over tokens, for each LoRA."""
    sums: dict[str, float] = {}
    mask: list[torch.Tensor] = []

    def hook(name: str) -> Any:
        def add(module: Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            update = module.lora_B["default"](module.lora_A["default"](inputs[0]))
            sums[name] = sums.get(name, 0.0) + float((update.norm(dim=-1) ** 2)[mask[0]].sum())

        return add

    for name, module in model.named_modules():
        if isinstance(module, Linear):
            module.register_forward_hook(hook(name))
    model.eval()
    collate = DataCollatorWithPadding(given.tokenizer)
    for start in range(0, len(rows), given.batch_size):
        batch = collate([rows[i] for i in range(start, min(len(rows), start + given.batch_size))])
        mask[:] = [batch["attention_mask"].bool()]
        with torch.no_grad():
            model(**batch)
    return sums


def kept(given: argparse.Namespace, sums: dict[str, float]) -> set[str]:
    """Choose the LoRAs to keep: most important first, until their sum reaches the threshold."""
    chosen: set[str] = set()
    for kind in ("query", "value"):
        layers = {name: value for name, value in sums.items() if name.endswith(kind)}
        order = sorted(layers, key=lambda name: -layers[name])
        shares = np.cumsum([layers[name] for name in order]) / sum(layers.values())
        count = min(len(order), int(np.searchsorted(shares, given.threshold)) + 1)
        if given.strategy == "inverse":
            order = order[::-1]
        elif given.strategy == "random":
            random.Random(given.seed).shuffle(order)
        elif given.strategy == "upper":
            order = list(layers)[::-1]
        chosen |= set(order[:count])
    return chosen


def share(model: Any, keep: set[str], drop_only: bool) -> None:
    """Let all LoRAs that are not kept use the matrices of the first of them, or none."""
    first: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not isinstance(module, Linear) or name in keep:
            continue
        owner = first.setdefault(name.rsplit(".", 1)[-1], module)
        if drop_only:
            module.lora_B["default"].requires_grad_(False)
            module.lora_A["default"].requires_grad_(False)
        elif owner is not module:
            module.lora_A["default"].weight = owner.lora_A["default"].weight
            module.lora_B["default"].weight = owner.lora_B["default"].weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "train", "dev"):
        parser.add_argument(name, type=Path)
    parser.add_argument(
        "--strategy", default="importance", choices=["importance", "inverse", "random", "upper"]
    )
    parser.add_argument("--no-share", action="store_true")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.tokenizer = AutoTokenizer.from_pretrained(given.model)
    for split in ("train", "dev"):
        lines = getattr(given, split).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        ids = given.tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
        labels = [row["label"] for row in rows]
        setattr(given, split, Dataset.from_dict({"input_ids": ids, "labels": labels}))
    with tempfile.TemporaryDirectory() as given.folder:
        sample = given.train.shuffle(seed=given.seed).select(range(int(SAMPLE * len(given.train))))
        model = fresh(given)
        train(given, model, sample, STAGE1_EPOCHS)
        keep = kept(given, norms(given, model, sample))
        model = fresh(given)
        share(model, keep, given.no_share)
        print(train(given, model, given.train, given.epochs).evaluate())


if __name__ == "__main__":
    main()
