"""Growth: the time of a training step and its memory, against one size at a time."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmark import stand_ins
from experiments.benchmark.turns import Worker, take_turns

BASE = {"length": 32, "rows": 16, "layers": 6, "rank": 8, "targets": 2}
SIZES = {
    "length": (16, 32, 64, 128),
    "rows": (8, 16, 32),
    "layers": (3, 6, 12),
    "rank": (2, 8, 32),
    "targets": (1, 2, 6),
}
TARGETS = ("query", "value", "key", "intermediate.dense", "output.dense")  # the last: two a layer
NAME = "grown"


def prepare(size: dict[str, int]) -> Callable[[], Mapping[str, float]]:
    """Make a turn: the median of three training steps of MiniLM's shape with one size changed."""
    import torch

    from experiments.benchmark.limit import Step

    torch.set_num_threads(1)
    stand_ins.SHAPES[NAME] = replace(stand_ins.SHAPES["minilm"], layers=size["layers"])
    with tempfile.TemporaryDirectory() as folder:
        weights = stand_ins.write_model(Path(folder), NAME)
        targets = TARGETS[: size["targets"]]
        step = Step(weights, NAME, size["length"], size["rank"], size["rows"], targets)
    return lambda: {"seconds": median(step() for _ in range(3))}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure each size, with the others as in BASE."""
    rows = []
    for key, values in SIZES.items():
        with ExitStack() as stack:
            workers = {
                str(value): stack.enter_context(Worker(prepare, ({**BASE, key: value},)))
                for value in values
            }
            turns = take_turns({value: worker.turn for value, worker in workers.items()}, 1)
            turns = take_turns(
                {value: worker.turn for value, worker in workers.items()}, given.rounds
            )
            peaks = {value: worker.peak_bytes() for value, worker in workers.items()}
        seconds = {value: median(t["seconds"] for t in own) for value, own in turns.items()}
        row: dict[str, Any] = {"size": key, "seconds": seconds, "peak_bytes": peaks}
        row["exponent"] = round(exponent(seconds), 2)
        rows.append(row)
        print(row)
    return {"base": BASE, "rows": rows}


def exponent(seconds: Mapping[str, float]) -> float:
    """Return b of seconds = a size^b between the smallest and the largest size; 1 is linear."""
    first, last = min(seconds, key=float), max(seconds, key=float)
    return math.log(seconds[last] / seconds[first]) / math.log(float(last) / float(first))
