"""What contestants of the training benchmark share: the case, and the clock of a turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RANK, ALPHA, RATE = 8, 16, 5e-4


@dataclass(frozen=True)
class Case:
    """A model, the task whose lengths the rows have, and the size of a turn.

    Args:
        shape: A key of stand_ins.SHAPES.
        task: A key of stand_ins.LENGTHS.
        batch_size: Rows of a step; fewer where a step of long rows would take many seconds.
        steps: Optimiser steps of a turn, so that a turn takes seconds.
    """

    shape: str
    task: str
    batch_size: int
    steps: int

    def chosen(self, order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Choose the batches of a turn, as many as it has steps, for what an epoch is like.

        The first ones would not do: the Trainer's groups of similar length begin with their longest
        rows.

        Args:
            order: The rows of an epoch, in the contestant's own order.
            lengths: The tokens of each row.

        Returns:
            Batches of that order, evenly spaced among all when sorted by their longest row.
        """
        size = self.batch_size
        batches = [list(order[i : i + size]) for i in range(0, len(order) - size + 1, size)]
        batches.sort(key=lambda batch: max(lengths[row] for row in batch))
        return [batches[(2 * i + 1) * len(batches) // (2 * self.steps)] for i in range(self.steps)]


class TrainingClock:
    """CPU and wall seconds of a training, and the tokens it trained on, without padding."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin; a callback of either trainer."""
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        """End; a callback of either trainer."""
        self.cpu = time.process_time() - self.cpu
        self.wall = time.perf_counter() - self.wall

    def measured(self) -> dict[str, float]:
        """Return what a turn reports."""
        return {"seconds": self.cpu, "wall_seconds": self.wall, "tokens": self.tokens}

    def _count(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.tokens += int(kwargs["attention_mask"].sum())
