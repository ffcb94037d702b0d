"""A turn of transformers' Trainer, with PEFT's LoRA or full fine-tuning."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.data import RandomSampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from experiments.benchmark.stand_ins import MAX_LENGTH, SHAPES, hub_id
from experiments.benchmark.training_turn import ALPHA, RANK, RATE, Case, TrainingClock

# what makes it fastest here, besides batches of similar length: no logs, no checkpoints
BEST: dict[str, Any] = {
    "logging_strategy": "no",
    "save_strategy": "no",
    "logging_nan_inf_filter": False,
}


def prepare(folder: Path, case: Case, best: bool, lora: bool) -> Callable[[], Mapping[str, float]]:
    """Make a turn.

    Args:
        folder: Where the stand-ins are.
        case: What to train on.
        best: Whether to group rows by length and set the options of BEST; otherwise the Trainer's
            defaults.
        lora: Whether to train PEFT's LoRA and the head, or everything.
    """
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    weights = folder / "models" / hub_id(case.shape)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    chosen = chosen_rows(tokenised(folder / case.task, tokenizer), case, best)

    def turn() -> dict[str, float]:
        model = new_model(weights, case.shape, lora)
        clock = TrainingClock(model)
        with tempfile.TemporaryDirectory() as run:
            arguments = TrainingArguments(
                run,
                per_device_train_batch_size=case.batch_size,
                train_sampling_strategy="sequential",  # as chosen
                num_train_epochs=1,
                learning_rate=RATE,
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
                **(BEST if best else {}),
            )
            collate = DataCollatorWithPadding(tokenizer)
            timer = Timer(clock)
            Trainer(
                model, arguments, train_dataset=chosen, data_collator=collate, callbacks=[timer]
            ).train()
        return clock.measured()

    return turn


class Timer(TrainerCallback):
    """Starts and stops a clock."""

    def __init__(self, clock: TrainingClock) -> None:
        self.on_train_begin, self.on_train_end = clock.start, clock.stop


def tokenised(folder: Path, tokenizer: Any) -> Dataset:
    """Return the stand-in rows as token ids, with their lengths."""
    lines = (folder / "SST-2" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    ids = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    lengths = [len(row) for row in ids]
    columns = {"input_ids": ids, "labels": [int(label) for label in labels], "length": lengths}
    return Dataset.from_dict(columns)


def chosen_rows(rows: Dataset, case: Case, best: bool) -> Dataset:
    """Return the rows of a turn, in the order of the sampler that the Trainer would take."""
    lengths = list(rows["length"])
    sampler = (
        LengthGroupedSampler(case.batch_size, lengths=lengths) if best else RandomSampler(rows)
    )
    return rows.select([row for batch in case.chosen(list(sampler), lengths) for row in batch])


def new_model(weights: Path, shape: str, lora: bool) -> Any:
    """Load the stand-in model, with PEFT's LoRA or to be trained as a whole."""
    model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)
    if not lora:
        return model
    targets = list(SHAPES[shape].target_modules)
    config = LoraConfig(TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, target_modules=targets)
    return get_peft_model(model, config)
