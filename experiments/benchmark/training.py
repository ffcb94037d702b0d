"""Training: tokens per second and peak memory, ours beside PEFT with transformers' Trainer.

The same weights, rows, batch size, precision and one thread. Each contestant is a process of its
own that trains the same number of steps per turn, from the start. Tokens are those of the texts,
without padding; seconds are CPU seconds between the start and the end of training, so that other
work on the machine counts little (wall seconds are stored as well). Loading, tokenising and
evaluation are not counted, for anybody.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmark.stand_ins import LENGTHS, MAX_LENGTH, SHAPES, hub_id
from experiments.benchmark.turns import Worker, median_ratio, take_turns

BATCH_SIZE, RANK, ALPHA, RATE = 32, 8, 16, 5e-4
OURS, DEFAULTS, BEST, FULL = (
    "loradrop",
    "PEFT + Trainer",
    "PEFT + Trainer, best",
    "full fine-tuning",
)
TRAINING_ROWS = 8_192  # enough for batches of similar length to be as they are on a whole task
# optimiser steps of one turn, so that a turn takes seconds
STEPS = {"minilm": {"cola": 40, "sst2": 40, "rte": 8, "qnli": 10}}
STEPS["mpnet"] = {"cola": 8, "sst2": 8, "rte": 3, "qnli": 3}
STEPS["llama"] = {"cola": 20, "rte": 4}


class Clock:
    """CPU and wall seconds of a training."""

    def start(self) -> None:
        self.begun = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        cpu, wall = self.begun
        self.seconds = time.process_time() - cpu
        self.wall_seconds = time.perf_counter() - wall


class Counter:
    """Counts the tokens that a model trains on, without padding."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.tokens += int(kwargs["attention_mask"].sum())


def measured(clock: Clock, counter: Counter) -> dict[str, float]:
    """Return what a turn reports."""
    seconds = {"seconds": clock.seconds, "wall_seconds": clock.wall_seconds}
    return {**seconds, "tokens": counter.tokens}


def ours(folder: Path, shape: str, rows: str, steps: int) -> Callable[[], Mapping[str, float]]:
    """Make a turn of ours: the training of `python -m experiments.run method=lora`."""
    from datetime import timedelta

    from pytorch_lightning import Callback

    from experiments.config.sweep import expand_sweep
    from experiments.config.validation import check
    from experiments.runner.components import RunComponents
    from experiments.runner.trainer import Checkpoint, make_module, make_trainer, quieten

    quieten()
    [config] = expand_sweep(overrides(folder, shape, rows))

    class Timer(Callback):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_train_start(self, *args: Any) -> None:
            self.clock.start()

        def on_train_end(self, *args: Any) -> None:
            self.clock.stop()

    def turn() -> dict[str, float]:
        components, clock = RunComponents(check(config)), Clock()
        counter = Counter(components.model)
        module = make_module(components, components.data, components.method)
        with tempfile.TemporaryDirectory() as run:
            callbacks = [Timer(clock), Checkpoint(Path(run), timedelta(minutes=5))]
            options: dict[str, Any] = {"logger": False, "limit_val_batches": 0, "max_steps": steps}
            make_trainer(components, "training", 1, steps, callbacks, **options).fit(module)
        return measured(clock, counter)

    return turn


def overrides(folder: Path, shape: str, rows: str) -> list[str]:
    """Return the overrides of a run on a stand-in model and stand-in rows."""
    return [
        *("backbone=all_minilm_l6", "task=sst2", "method=lora", "trainer=cpu"),
        *(f"backbone.name={shape}", f"backbone.hub_id={hub_id(shape)}", "backbone.revision=null"),
        *(f"recipe.batch_size={BATCH_SIZE}", f"recipe.max_length={MAX_LENGTH}", "recipe.epochs=1"),
        *(f"recipe.learning_rate={RATE}", f"recipe.lora_alpha={ALPHA}", f"method.rank={RANK}"),
        *("trainer.num_threads=1", "trainer.progress_bar=false"),
        *(f"paths.models={folder / 'models'}", f"paths.data={folder / rows}"),
        f"paths.outputs={folder / 'outputs' / rows}",
    ]


def theirs(
    folder: Path, shape: str, rows: str, steps: int, best: bool, lora: bool
) -> Callable[[], Mapping[str, float]]:
    """Make a turn of transformers' Trainer.

    Args:
        folder: Where the stand-ins are.
        shape: The model.
        rows: The folder of rows.
        steps: Optimiser steps of a turn.
        best: Whether to set the options that make it fastest here: batches of similar length, no
            logs, no checkpoints.
        lora: Whether to train PEFT's LoRA and the head, or everything.
    """
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    weights = folder / "models" / hub_id(shape)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    lines = (folder / rows / "SST-2" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    ids = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    columns: dict[str, Any] = {"input_ids": ids, "labels": [int(label) for label in labels]}
    if best:
        columns["length"] = [len(row) for row in ids]
    data = Dataset.from_dict(columns)

    class Timer(TrainerCallback):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.clock.start()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.clock.stop()

    options: dict[str, Any] = {"disable_tqdm": True}
    if best:
        options |= {"train_sampling_strategy": "group_by_length", "logging_strategy": "no"}
        options |= {"save_strategy": "no", "logging_nan_inf_filter": False}

    def turn() -> dict[str, float]:
        model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)
        if lora:
            targets = list(SHAPES[shape].target_modules)
            model = get_peft_model(
                model,
                LoraConfig(TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, target_modules=targets),
            )
        clock, counter = Clock(), Counter(model)
        with tempfile.TemporaryDirectory() as run:
            arguments = TrainingArguments(
                run,
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=steps,
                learning_rate=RATE,
                use_cpu=True,
                dataloader_pin_memory=False,
                **options,
            )
            Trainer(
                model,
                arguments,
                train_dataset=data,
                data_collator=DataCollatorWithPadding(tokenizer),
                callbacks=[Timer(clock)],
            ).train()
        return measured(clock, counter)

    return turn


CONTESTANTS: dict[str, Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    OURS: lambda *place: (ours, place),
    DEFAULTS: lambda *place: (theirs, (*place, False, True)),
    BEST: lambda *place: (theirs, (*place, True, True)),
    FULL: lambda *place: (theirs, (*place, True, False)),
}


def measure(folder: Path, shape: str, task: str, rounds: int) -> dict[str, Any]:
    """Let the contestants train in turn on rows of one task's lengths."""
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(*make(folder, shape, task, STEPS[shape][task])))
            for name, make in CONTESTANTS.items()
        }
        for worker in workers.values():
            worker.turn()  # imports, first allocations
        turns = take_turns({name: worker.turn for name, worker in workers.items()}, rounds)
        peaks = {name: worker.peak_bytes() for name, worker in workers.items()}
    rates = {
        name: [turn["tokens"] / turn["seconds"] for turn in own] for name, own in turns.items()
    }
    return {
        "shape": shape,
        "task": task,
        "steps": STEPS[shape][task],
        "turns": turns,
        "tokens_per_second": {name: round(median(own), 1) for name, own in rates.items()},
        "peak_bytes": peaks,
        "ratios": {
            name: round(median_ratio(rates[OURS], own), 3)
            for name, own in rates.items()
            if name != OURS
        },
    }


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure all shapes and tasks."""
    from experiments.benchmark.stand_ins import write_data, write_model
    from experiments.common import console

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for task in LENGTHS:
            write_data(folder / task, task, TRAINING_ROWS)
        for shape, tasks in STEPS.items():
            write_model(folder / "models", shape)
            for task in tasks:
                rows.append(measure(folder, shape, task, given.rounds))
                console.info(f"{shape} {task}: {rows[-1]['ratios']}")
    return {"rows": rows}
