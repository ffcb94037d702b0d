"""A task's rows as token ids, and the loaders of a run over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from torch.utils.data import DataLoader

from loradrop.sampling import stratified_sample
from loradrop.seeds import Seeds
from loradrop.tasks.base import FITS, LITERAL, NEEDED, TRAIN, LabelTask, Splits, Task
from loradrop.training.batches import (
    Collator,
    LengthGroupedSampler,
    PartCollator,
    PartOfBatches,
    TextCollator,
)
from loradrop.training.lengths import limit
from loradrop.training.recipe import TRUNCATE
from loradrop.training.tokens import tokenise


class TaskData:
    """A task's rows as token ids, and loaders over them.

    Args:
        task: The task.
        splits: Its rows.
        tokenizer: The backbone's tokenizer.
        max_length: The largest number of tokens of a row.
        batch_size: Rows in a batch of training.
        seeds: The run's seeds.
        num_workers: Worker processes of each loader.
        pin_memory: Whether to pin memory, which speeds up copies to a GPU.
        cache: A folder that keeps token ids for later runs.
        evaluation_batch_size: Rows in a batch of evaluation. None doubles `batch_size`.
        long_rows: What becomes of rows over max_length, as in the recipe.
        rank: The number of this process, of `world_size` that train together. Each takes its part
            of every training batch, and every `world_size`-th batch of evaluation.
        world_size: The number of processes.

    Raises:
        ValueError: max_length is too small for the task or for a row.
    """

    def __init__(
        self,
        task: Task,
        splits: Splits,
        tokenizer: Any,
        max_length: int,
        batch_size: int,
        seeds: Seeds,
        num_workers: int = 0,
        pin_memory: bool = False,
        cache: Path | None = None,
        evaluation_batch_size: int | None = None,
        long_rows: str = TRUNCATE,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if max_length < task.shortest(tokenizer):
            raise ValueError(
                f"recipe.max_length must be at least {task.shortest(tokenizer)} for {task.name}, "
                f"got {max_length}"
            )
        self.task, self.splits, self.seeds = task, splits, seeds
        self.rank, self.world_size = rank, world_size
        self.evaluation_batch_size = evaluation_batch_size
        self.batch_size, self.num_workers, self.pin_memory = batch_size, num_workers, pin_memory
        self.collate = (
            TextCollator(tokenizer)
            if task.generates
            else Collator(tokenizer, cast(LabelTask, task).is_regression)
        )
        self.fingerprint = splits.fingerprint()
        arguments = (
            task,
            tokenizer,
            max_length,
            cache and cache / self._cache_key(tokenizer, max_length),
        )
        encoded = {
            name: tokenise(rows, name, *arguments)
            for name, rows in {TRAIN: splits.train, **splits.evaluation}.items()
        }
        kept = {}
        for name, rows in encoded.items():
            kept[name], notes = limit(rows, task.name, name, max_length, long_rows)
            splits.notes += notes
            encoded[name] = rows.remove_columns([NEEDED, FITS])
        self.train = encoded.pop(TRAIN)
        self.evaluation = encoded
        if len(kept[TRAIN]) < len(self.train):
            self.train = self.train.select(kept[TRAIN])
            self.splits = replace(splits, train=splits.train.select(kept[TRAIN]))
        self.lengths = [len(ids) for ids in self.train["input_ids"]]

    def _cache_key(self, tokenizer: Any, max_length: int) -> str:
        """Hash everything on which token ids depend."""
        if tokenizer.is_fast:
            settings = json.loads(tokenizer.backend_tokenizer.to_str())
            # using a tokenizer changes these two
            vocabulary = json.dumps(
                {
                    key: value
                    for key, value in settings.items()
                    if key not in ("truncation", "padding")
                }
            )
        else:
            vocabulary = repr(tokenizer)
        encoder = f"{type(self.task).__module__}.{type(self.task).__qualname__}"
        special = json.dumps(tokenizer.special_tokens_map)  # not part of the vocabulary
        parts = (
            json.dumps([LITERAL, NEEDED]),
            self.fingerprint,
            encoder,
            *self.task.encoding,
            str(max_length),
            vocabulary,
            special,
        )
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    def of_rows(self, rows: Sequence[int]) -> TaskData:
        """Return the same data with these rows as its training set."""
        part = copy(self)
        part.train = self.train.select(rows)
        part.lengths = [self.lengths[row] for row in rows]
        return part

    def train_loader(self, skip: int = 0) -> DataLoader:
        """Return shuffled training batches; the first epoch leaves out its first `skip` batches."""
        sampler = LengthGroupedSampler(self.lengths, self.batch_size, self.seeds, skip)
        if self.world_size == 1:
            return self._loader(self.train, sampler)
        parts: Any = PartOfBatches(self.train, self.rank, self.world_size)
        return self._loader(parts, sampler, PartCollator(self.collate))

    def ordered_train_loader(self, divided: bool = False) -> DataLoader:
        """Return the training set once in a fixed order, for measuring.

        Args:
            divided: Whether each process gets its part of the batches, or all of them.
        """
        order = _longest_first(self.lengths)
        if not divided or self.world_size == 1:
            return self._loader(self.train, self._batches(order))
        # divided weights are gathered in each forward pass, so all processes need as many batches
        size = max(2, self.evaluation_batch_size or 2 * self.batch_size)
        count = -(-len(order) // (size * self.world_size))
        own = order[self.rank :: self.world_size]
        if not own:
            raise ValueError(
                f"{len(order)} rows cannot be divided among {self.world_size} processes"
            )
        cuts = [i * len(own) // count for i in range(count + 1)]
        return self._loader(self.train, [own[i:j] for i, j in pairwise(cuts)])

    def evaluation_loaders(self) -> list[DataLoader]:
        """Return each split once, in the order of `evaluation_order`, or this process's part."""
        return [
            self._loader(
                self.evaluation[name], self._own(self._batches(self.evaluation_order(name)))
            )
            for name in self.evaluation
        ]

    def _own(self, batches: list[list[int]]) -> list[list[int]]:
        """Every world_size-th batch. The last is repeated so that all processes get as many."""
        last = len(batches) - 1
        return [
            batches[min(i, last)] for i in range(self.rank, last + self.rank + 1, self.world_size)
        ]

    def in_order(self, split: str, parts: Sequence[Sequence[Any]]) -> list[Any]:
        """Put what the processes made of their evaluation batches into the order of one process.

        Args:
            split: The split.
            parts: For each process, its value of each of its batches.
        """
        count = len(self._batches(self.evaluation_order(split)))
        return [parts[i % self.world_size][i // self.world_size] for i in range(count)]

    def evaluation_order(self, split: str) -> list[int]:
        """Return the rows of a split in the order of its batches."""
        return _longest_first([len(ids) for ids in self.evaluation[split]["input_ids"]])

    def sample(self, ratio: float) -> list[int]:
        """Return the rows of a sample of the training set, stratified by the task's strata."""
        return stratified_sample(self.task.strata(self.splits.train), ratio, self.seeds.sample)

    def _batches(self, order: list[int]) -> list[list[int]]:
        size = self.evaluation_batch_size or 2 * self.batch_size  # more fits without gradients
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _loader(self, rows: Dataset, batches: Any, collate: Any = None) -> DataLoader:
        return DataLoader(
            rows,
            sampler=batches,
            batch_size=None,
            # with batch_size=None it gets a dict of columns, which the annotation leaves out
            collate_fn=collate or self.collate,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )


def _longest_first(lengths: Sequence[int]) -> list[int]:
    """Sort rows by descending length, so that a batch that exceeds the memory fails at once."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])
