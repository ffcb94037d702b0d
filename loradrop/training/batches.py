"""Which rows form a batch, and how they are joined to one.

The order of a training epoch depends only on (seed, epoch), so an interrupted run can continue
within an epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from loradrop.seeds import Seeds
from loradrop.tasks.base import LABEL
from loradrop.tasks.text import IGNORED, LABELS

# this many batches are sorted by length together: little padding, and batches still vary by epoch
POOL = 32
WEIGHT = "weight"  # of a process's part of a batch


class LengthGroupedSampler(Sampler[list[int]]):
    """Yield lists of rows of similar length, in an order that depends only on (seed, epoch).

    Args:
        lengths: The number of tokens of each row.
        batch_size: Rows in a batch.
        seeds: The run's seeds.
        skip: The number of batches to leave out of the next epoch, to resume a run.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seeds: Seeds, skip: int = 0
    ) -> None:
        self.lengths, self.batch_size, self.seeds, self.skip = lengths, batch_size, seeds, skip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        draw = random.Random(self.seeds.order(self.epoch))
        order = draw.sample(range(len(self.lengths)), len(self.lengths))
        batches = []
        for start in range(0, len(order), POOL * self.batch_size):
            pool = sorted(
                order[start : start + POOL * self.batch_size], key=lambda row: -self.lengths[row]
            )
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        draw.shuffle(batches)
        skip, self.skip = self.skip, 0
        yield from batches[skip:]


class Collator:
    """Join rows to one batch, padded to its longest row on the tokenizer's side."""

    def __init__(self, tokenizer: Any, is_regression: bool) -> None:
        self.tokenizer, self.label_type = tokenizer, torch.float32 if is_regression else torch.int64

    def __call__(self, rows: Mapping[str, list]) -> dict[str, Tensor]:
        rows = dict(rows)
        labels = torch.tensor(rows.pop(LABEL), dtype=self.label_type)
        return {**self.tokenizer.pad(rows, return_tensors="pt"), "labels": labels}


class TextCollator:
    """Join rows to one batch.

    Prompts with targets are padded on the right. Prompts alone are padded on the left, as
    generation starts at their right end.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Mapping[str, list]) -> dict[str, Tensor]:
        side = "right" if LABELS in rows else "left"
        ids = {"input_ids": rows["input_ids"]}
        batch = {**self.tokenizer.pad(ids, padding_side=side, return_tensors="pt")}
        if LABELS in rows:
            labels = [torch.tensor(row) for row in rows[LABELS]]
            batch[LABELS] = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch


class PartOfBatches:
    """The rows that one of several processes takes of each training batch, and their weight.

    A process's loss is a mean over its own rows (or target tokens). Times the weight, the mean of
    all processes' losses is that of the whole batch. A process for which a small batch has no row
    takes one of another's, without weight.

    Args:
        rows: The training set.
        rank: The number of the process.
        world_size: The number of processes.
    """

    def __init__(self, rows: Dataset, rank: int, world_size: int) -> None:
        self.rows, self.rank, self.world_size = rows, rank, world_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: list[int]) -> dict[str, list]:
        part = batch[self.rank :: self.world_size]
        weight = self.world_size * self._size(part) / self._size(batch) if part else 0.0
        return {**self.rows[part or batch[:1]], WEIGHT: [weight]}

    def _size(self, batch: list[int]) -> int:
        """What a batch's loss is a mean over: rows, or the tokens of their targets."""
        if LABELS not in self.rows.column_names:
            return len(batch)
        return sum(label != IGNORED for row in self.rows[batch][LABELS] for label in row)


class PartCollator:
    """Join rows of PartOfBatches to one batch, with its weight."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, rows: Mapping[str, list]) -> dict[str, Tensor]:
        rows = dict(rows)
        (weight,) = rows.pop(WEIGHT)
        return {**self.collate(rows), WEIGHT: torch.tensor(weight)}
