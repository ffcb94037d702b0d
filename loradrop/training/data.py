"""Tokenise once, batch by length: the loaders of a run.

The order of a training epoch depends only on (seed, epoch), so an interrupted run can continue
within an epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

from loradrop.checksums import matches, write_beside
from loradrop.sampling import stratified_sample
from loradrop.seeds import Seeds
from loradrop.tasks.base import FITS, LABEL, LITERAL, NEEDED, TRAIN, LabelTask, Splits, Task
from loradrop.tasks.text import IGNORED, LABELS
from loradrop.training.lengths import limit
from loradrop.training.recipe import TRUNCATE

# this many batches are sorted by length together: little padding, and batches still vary by epoch
POOL = 32
logger = logging.getLogger(__name__)
WEIGHT = "weight"  # of a process's part of a batch
LONG = 20_000  # from this many rows on, tokenising shows a progress bar


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
            name: _tokenise(rows, name, *arguments)
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


def _tokenise(
    rows: Dataset, name: str, task: Task, tokenizer: Any, max_length: int, cache: Path | None
) -> Dataset:
    """Return token ids and labels. They are read from `cache` if they are there, and undamaged:
    Arrow does not check offsets, and a wrong one would crash the interpreter.
    """
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    path = None if cache is None else cache / f"{name}.arrow"
    exists = path is not None and path.exists()
    known = exists and path is not None and matches(path)
    if exists and not known:
        logger.warning("tokenising %s again: %s does not match its checksum", name, path)
    (enable_progress_bars if len(rows) > LONG else disable_progress_bars)()
    encoded = rows.map(
        task.encode,
        batched=True,
        remove_columns=[column for column in rows.column_names if column != LABEL],
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
        cache_file_name=path and str(path),
        load_from_cache_file=known,
        new_fingerprint=cache and f"{cache.name}{name}",
        desc=f"tokenising {task.name} {name}",
    )
    if path is not None and not known:
        write_beside(path)
    return encoded
