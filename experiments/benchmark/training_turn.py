"""What contestants of the training benchmark share: the case, and the clock of a turn."""

from __future__ import annotations

import time
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
        steps: Optimiser steps of a turn, so that a turn takes seconds; at most
            loradrop.training.batches.POOL.
    """

    shape: str
    task: str
    batch_size: int
    steps: int

    @property
    def rows(self) -> int:
        """Rows of the training set: a turn is one epoch, so all contestants train on the same.

        The first steps of a longer epoch would not do: the Trainer's length groups begin with
        their longest rows. And with at most one pool of batches, both sort all rows by length.
        """
        return self.batch_size * self.steps

    @property
    def data(self) -> str:
        """The folder of the training set, below that of the stand-ins."""
        return f"{self.task}-{self.rows}"


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
