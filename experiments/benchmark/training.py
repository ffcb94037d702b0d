"""Training: tokens per second and peak memory, ours beside PEFT with transformers' Trainer.

The same weights, rows, batch size, precision and one thread. Each contestant is a process of its
own. A turn begins from the start and takes a few steps, on batches that stand for a whole epoch of
the contestant's own order. Tokens are those of the texts, without padding; seconds are CPU seconds
between the start and the end of training, so that other work on the machine counts little (wall
seconds are stored as well). Loading, tokenising and evaluation are not counted, for anybody.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmark import equal_steps, training_ours, training_peft
from experiments.benchmark.stand_ins import LENGTHS, write_data, write_model
from experiments.benchmark.training_turn import Case
from experiments.benchmark.turns import Worker, median_ratio, take_turns
from experiments.common import console

OURS, DEFAULTS, BEST, FULL = (
    "loradrop",
    "PEFT + Trainer",
    "PEFT + Trainer, best",
    "full fine-tuning",
)
TRAINING_ROWS = 8_192  # enough for batches of similar length to be as they are on a whole task
CASES = (
    Case("minilm", "cola", 32, 10),
    Case("minilm", "sst2", 32, 10),
    Case("minilm", "rte", 16, 5),
    Case("minilm", "qnli", 16, 6),
    Case("mpnet", "cola", 16, 5),
    Case("mpnet", "sst2", 16, 5),
    Case("mpnet", "rte", 8, 4),
    Case("mpnet", "qnli", 8, 4),
    Case("llama", "cola", 32, 8),
)
# what a contestant's process prepares, and the arguments besides the folder and the case
CONTESTANTS: dict[str, tuple[Callable[..., Any], tuple[bool, ...]]] = {
    OURS: (training_ours.prepare, ()),
    DEFAULTS: (training_peft.prepare, (False, True)),
    BEST: (training_peft.prepare, (True, True)),
    FULL: (training_peft.prepare, (True, False)),
}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure all cases, and compare the losses after equal steps."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for task in LENGTHS:
            write_data(folder / task, task, TRAINING_ROWS)
        losses = {}
        for shape in dict.fromkeys(case.shape for case in CASES):
            losses[shape] = equal_steps.losses(write_model(folder / "models", shape), shape)
        for case in CASES:
            rows.append(measure(folder, case, given.rounds))
            console.info(f"{case.shape} {case.task}: {rows[-1]['ratios']}")
    return {"rows": rows, "losses_after_equal_steps": losses}


def measure(folder: Path, case: Case, rounds: int) -> dict[str, Any]:
    """Let the contestants train in turn on rows of one task's lengths."""
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(prepare, (folder, case, *options)))
            for name, (prepare, options) in CONTESTANTS.items()
        }
        own_turns = {name: worker.turn for name, worker in workers.items()}
        take_turns(own_turns, 1)  # first allocations
        turns = take_turns(own_turns, rounds)
        peaks = {name: worker.peak_bytes() for name, worker in workers.items()}
    rates = {
        name: [turn["tokens"] / turn["seconds"] for turn in own] for name, own in turns.items()
    }
    return {
        "shape": case.shape,
        "task": case.task,
        "batch_size": case.batch_size,
        "steps": case.steps,
        "turns": turns,
        "tokens_per_second": {name: round(median(own), 1) for name, own in rates.items()},
        "peak_bytes": peaks,
        "ratios": {
            name: round(median_ratio(rates[OURS], own), 3)
            for name, own in rates.items()
            if name != OURS
        },
    }
