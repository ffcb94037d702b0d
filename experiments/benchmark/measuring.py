"""Measuring: `loradrop.measure` beside a plain forward pass, and beside a hook that forms B A x."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

import loradrop
from experiments.benchmark.stand_ins import SHAPES, VOCABULARY, row_lengths, write_model
from experiments.benchmark.turns import median_ratio, take_turns
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import adapted_sites

BATCHES, BATCH_SIZE, RANK = 14, 64, 8  # a tenth of CoLA, in evaluation batches
# batches of the larger shapes: a turn takes seconds
CASES = {
    ("minilm", "cola"): BATCHES,
    ("minilm", "rte"): 3,
    ("mpnet", "cola"): 4,
    ("llama", "cola"): 7,
}


def adapted(folder: Path, shape: str) -> nn.Module:
    """Return a stand-in model with LoRA whose B is not zero."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    for site in loradrop.add_lora(model, RANK, target_modules=SHAPES[shape].target_modules):
        nn.init.normal_(model.get_submodule(site.name).lora_B, std=0.02)
    return model.eval()


def batches_of(task: str, count: int) -> list[dict[str, Tensor]]:
    """Return batches of random words with a task's lengths, longest first and padded."""
    lengths = sorted(row_lengths(task, count * BATCH_SIZE), reverse=True)
    draw = torch.Generator().manual_seed(0)
    batches = []
    for start in range(0, len(lengths), BATCH_SIZE):
        rows = torch.tensor(lengths[start : start + BATCH_SIZE])
        mask = torch.arange(int(rows.max())) < rows[:, None]
        ids = torch.randint(5, VOCABULARY, mask.shape, generator=draw) * mask
        batches.append({"input_ids": ids, "attention_mask": mask.long()})
    return batches


def forward_pass(model: nn.Module, batches: list[dict[str, Tensor]]) -> None:
    """Run a plain forward pass over all batches."""
    with torch.no_grad():
        for batch in batches:
            model(**batch)


def hooked_pass(model: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    """Measure the obvious way: a hook forms the whole output B A x of every token."""
    sums: dict[str, float] = {}
    with _hooks(model, sums) as masks, torch.no_grad():
        for batch in batches:
            masks[:] = [batch["attention_mask"].bool()]
            model(**batch)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return {name: total / tokens for name, total in sums.items()}


@contextmanager
def _hooks(model: nn.Module, sums: dict[str, float]) -> Iterator[list[Tensor]]:
    masks: list[Tensor] = []

    def hook(name: str, module: LoRALinear) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            update = module.scaling * (inputs[0] @ module.lora_A.T) @ module.lora_B.T
            norms = update.square().sum(-1)[masks[0]]
            sums[name] = sums.get(name, 0.0) + float(norms.double().sum())

        return add

    handles = [
        module.register_forward_hook(hook(name, module))
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
    ]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure every case in turns."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for (shape, task), count in CASES.items():
            model = adapted(write_model(Path(temporary) / shape, shape), shape)
            batches = batches_of(task, count)
            contestants = {
                "forward pass": lambda m=model, b=batches: _seconds(forward_pass, m, b),
                "measure": lambda m=model, b=batches: _seconds(loradrop.measure, m, b),
                "hook with B A x": lambda m=model, b=batches: _seconds(hooked_pass, m, b),
            }
            take_turns(contestants, 1)  # first allocations
            seconds = take_turns(contestants, given.rounds + 1)
            base = seconds["forward pass"]
            ratios = {name: round(median_ratio(own, base), 3) for name, own in seconds.items()}
            rows.append(
                {"shape": shape, "task": task, "batches": count, "seconds": seconds}
                | {"ratios": ratios, "largest_difference": _difference(model, batches)}
            )
            print(f"{shape} {task}: {ratios}")
    return {"rows": rows}


def _seconds(measured: Callable[..., Any], model: nn.Module, batches: list[Any]) -> float:
    start = time.process_time()
    measured(model, batches)
    return time.process_time() - start


def _difference(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    """Return the largest relative difference between `measure` and the hook that forms B A x."""
    importance, plain = loradrop.measure(model, batches), hooked_pass(model, batches)
    sites = adapted_sites(model)
    return max(
        abs(importance.values[site.module_type][site.layer] / plain[site.name] - 1)
        for site in sites
    )
