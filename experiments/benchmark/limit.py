"""The limit: which share of the machine's matrix-product rate a training step reaches, and where
the rest of the time goes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification

import loradrop
from experiments.benchmark.stand_ins import SHAPES, VOCABULARY, write_model

BATCH_SIZE, RANK, STEPS = 32, 8, 4
CASES = (("minilm", 12), ("minilm", 64), ("mpnet", 12), ("llama", 12))  # shape, tokens of a row
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "dropout's random numbers": ("aten::bernoulli_", "aten::native_dropout"),
    "attention": ("aten::_softmax", "aten::_softmax_backward_data"),
    "activations": ("aten::gelu", "aten::gelu_backward", "aten::silu", "aten::silu_backward"),
    "normalisation": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone"),
    "optimiser": ("Optimizer.step#AdamW.step",),
}


class Step:
    """A training step of a stand-in model with LoRA, on one batch of full rows.

    Args:
        folder: The model's folder.
        shape: A key of SHAPES.
        length: Tokens of a row.
        rank: Of LoRA.
        rows: Rows of the batch.
        targets: Modules with LoRA; None takes those of the shape.
    """

    def __init__(
        self,
        folder: Path,
        shape: str,
        length: int,
        rank: int = RANK,
        rows: int = BATCH_SIZE,
        targets: Sequence[str] | None = None,
    ) -> None:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        loradrop.add_lora(model, rank, target_modules=targets or SHAPES[shape].target_modules)
        self.train_instead(model.train())
        ids = torch.randint(5, VOCABULARY, (rows, length))
        labels = torch.arange(rows) % 2
        self.batch: dict[str, Tensor] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": labels,
        }

    def train_instead(self, model: nn.Module) -> None:
        """Train another model from now on, on the same batch."""
        self.model = model
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def __call__(self) -> float:
        """Take a step; return its CPU seconds."""
        start = time.process_time()
        loss = self.model(**self.batch).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.process_time() - start


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Profile a step of every case."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for shape, length in CASES:
            step = Step(write_model(Path(temporary), shape), shape, length)
            step()
            seconds = [step() for _ in range(2 * given.rounds)]
            hidden = SHAPES[shape].hidden, SHAPES[shape].intermediate
            peak = product_rate(BATCH_SIZE * length, *hidden)
            flops = step_flops(step.model, BATCH_SIZE * length, length, SHAPES[shape].hidden)
            rate = flops / median(seconds)
            row = {"shape": shape, "length": length, "seconds": seconds, "flops": flops}
            row |= {"gflops": round(rate / 1e9, 1), "product_gflops": round(peak / 1e9, 1)}
            row |= {"share": round(rate / peak, 3), "time": where(step)}
            rows.append(row)
            print(row)
    return {"rows": rows}


def product_rate(rows: int, hidden: int, intermediate: int) -> float:
    """Measure the floating-point operations per second of the model's largest product."""
    x, w = torch.randn(rows, hidden), torch.randn(hidden, intermediate)
    seconds = []
    for _ in range(9):
        start = time.process_time()
        x @ w
        seconds.append(time.process_time() - start)
    return 2 * rows * hidden * intermediate / min(seconds)


def step_flops(model: nn.Module, tokens: int, length: int, hidden: int) -> float:
    """Count a step's operations in matrix products.

    Frozen weights have a forward product and one for the gradient of their input; LoRA has a third,
    for its own gradients. Attention has two products of (length x hidden) a token, and their four
    gradients.
    """
    matrices = [
        (name, p)
        for name, p in model.named_parameters()
        if p.dim() == 2 and "embed" not in name and "relative" not in name
    ]
    weights = sum(p.numel() * (6 if p.requires_grad else 4) for _, p in matrices) * tokens
    layers = sum("lora_A" in name for name, _ in matrices) / 2
    return weights + layers * 3 * 4 * length * hidden * tokens


def where(step: Step) -> dict[str, float]:
    """Return the share of a step's time by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    kinds = {name: kind for kind, names in GROUPS.items() for name in names}
    time_of: Counter[str] = Counter()
    for event in profiled.key_averages():
        time_of[kinds.get(event.key, "everything else")] += event.self_cpu_time_total
    total = sum(time_of.values())
    return {kind: round(part / total, 3) for kind, part in time_of.most_common()}
