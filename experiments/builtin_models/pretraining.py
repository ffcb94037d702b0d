"""Pretraining of both built-in models: batches, growing a stack, training loop.

The stack grows by doubling (Gong et al. 2019, "Efficient Training of BERT by Progressively
Stacking"): most steps are cheap, and a thin stack of 12 layers does not get stuck at the start.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Guess(NamedTuple):
    """Predictions for one batch.

    Attributes:
        loss: The mean loss.
        targets: (tokens,) The true ids of the predicted tokens.
        hits: (tokens,) Which were predicted correctly.
        watched: (tokens,) Which of them the training curve reports.
    """

    loss: Tensor
    targets: Tensor
    hits: Tensor
    watched: Tensor


Guesser = Callable[[nn.Module, Any], Guess]


class Batches:
    """Batches of rows of equal length, so that nothing is padded.

    Args:
        rows: Token ids.
        tokens: The size of a batch.
        seed: For the order.
    """

    def __init__(self, rows: list[list[int]], tokens: int, seed: int) -> None:
        self.by_length: dict[int, list[list[int]]] = defaultdict(list)
        for row in rows:
            self.by_length[len(row)].append(row)
        self.tokens, self.rng = tokens, random.Random(seed)

    def __iter__(self) -> Iterator[Any]:
        """One pass over all texts, in random order."""
        batches = []
        for length, rows in self.by_length.items():
            self.rng.shuffle(rows)
            size = max(1, self.tokens // length)
            batches += [rows[start : start + size] for start in range(0, len(rows), size)]
        self.rng.shuffle(batches)
        for rows in batches:
            yield self.prepare(torch.tensor(rows))

    def prepare(self, ids: Tensor) -> Any:
        """Turn ids (rows, length) into the input of a Guesser."""
        return ids


def stack(layers: nn.ModuleList, smaller: nn.ModuleList) -> None:
    """Fill a stack with copies of a smaller one.

    Args:
        layers: The stack to fill.
        smaller: The stack to repeat.
    """
    for index, layer in enumerate(layers):
        layer.load_state_dict(smaller[index % len(smaller)].state_dict())


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, guess: Guesser) -> dict[str, float]:
    """Loss and accuracy of predictions, and the loss of predicting by token frequency alone."""
    model.eval()
    loss = hits = count = 0.0
    targets = []
    for batch in batches:
        made = guess(model, batch)
        loss, count = loss + float(made.loss) * len(made.targets), count + len(made.targets)
        hits += float(made.hits.sum())
        targets.append(made.targets)
    frequency = torch.bincount(torch.cat(targets)).float()
    frequency = frequency[frequency > 0] / frequency.sum()
    model.train()
    return {
        "loss": loss / count,
        "accuracy": hits / count,
        "unigram_loss": float(-(frequency * frequency.log()).sum()),
    }


def train_stage(
    model: Any, batches: Batches, guess: Guesser, steps: int, lr: float, bf16: bool, last: bool
) -> list[list]:
    """Train with warm-up and linear decay, to zero only in the last stage.

    Returns:
        Rows of the curve: step, loss, accuracy on watched tokens, seconds.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    warmup, floor = max(1, steps // 15), 0.0 if last else 0.3

    def factor(step: int) -> float:
        decay = floor + (1 - floor) * (steps - step) / max(1, steps - warmup)
        return min((step + 1) / warmup, decay)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    curve, recent, watched, start, step = [], [], [], time.time(), 0
    while step < steps:
        for batch in islice(batches, steps - step):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                made = guess(model, batch)
            made.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            recent.append(made.loss.item())
            watched += made.hits[made.watched].tolist()
            step += 1
            if step % 100 == 0 or step == steps:
                means = [round(sum(values) / len(values), 3) for values in (recent, watched)]
                curve.append([step, *means, round(time.time() - start)])
                recent, watched = [], []
                depth = model.config.num_hidden_layers
                print(
                    f"{depth} layers, step {step}/{steps}: loss, watched, seconds {curve[-1][1:]}",
                    flush=True,
                )
    return curve


def grow(
    args: argparse.Namespace,
    build: Callable[[int, Any], Any],
    train: Batches,
    held_out: Batches,
    guess: Guesser,
) -> tuple[Any, list[dict[str, Any]]]:
    """Train all stages, and save the model after each.

    Returns:
        The final model, and the stages for the record.
    """
    model: Any = None
    stages: list[dict[str, Any]] = []
    for layers, steps, lr in zip(args.layers, args.steps, args.lr, strict=True):
        model, start = build(layers, model), time.time()
        curve = train_stage(model, train, guess, steps, lr, args.bf16, layers == args.layers[-1])
        scores = {name: round(value, 4) for name, value in evaluate(model, held_out, guess).items()}
        stages.append(
            {
                "layers": layers,
                "steps": steps,
                "lr": lr,
                "seconds": round(time.time() - start),
                "held_out": scores,
            }
        )
        stages[-1]["loss"] = curve[:: math.ceil(len(curve) / 15)] + curve[-1:]
        print(stages[-1]["held_out"], flush=True)
        model.half().save_pretrained(args.output)
        model.float()
    return model, stages
