"""Built-in generation tasks from the words of the built-in language: a fixed seed, no download.

A fifth of the things, people and places never occurs in training rows, so a model has to learn to
copy a word, not the word. A training row has one of the right sentences, an evaluation row has all
of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loradrop.tasks.base import Splits
from loradrop.tasks.builtin.dialogues import DialogueGenerator
from loradrop.tasks.builtin.labels import VALIDATION, check_generated
from loradrop.tasks.builtin.records import RecordGenerator
from loradrop.tasks.text import Entry, TextTask, evaluation_rows, training_rows

Maker = Callable[[random.Random, bool], Callable[[], Entry]]
MAKERS: dict[str, Maker] = {"mini_table2text": RecordGenerator, "mini_summary": DialogueGenerator}


@dataclass(frozen=True, kw_only=True)
class MiniText(TextTask):
    """A generated task; `name` picks the maker.

    Args:
        train_size: The number of training rows.
        validation_size: The number of validation rows.
        data_seed: The seed of the rows.
    """

    train_size: int
    validation_size: int
    data_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generated(self.name, MAKERS, self.train_size, self.validation_size)

    def load(self, data: Path | None) -> Splits:
        """Generate both splits. No source and no right answer occurs twice in them."""
        rng = random.Random(f"{self.name} {self.data_seed}")
        seen: set[str] = set()
        train = [
            (source, rng.choice(texts))
            for source, texts in self._entries(rng, True, self.train_size, seen)
        ]
        validation = self._entries(rng, False, self.validation_size, seen)
        return Splits(
            training_rows(train, self.name), {VALIDATION: evaluation_rows(validation, self.name)}
        )

    def _entries(
        self, rng: random.Random, training: bool, size: int, seen: set[str]
    ) -> list[Entry]:
        make = MAKERS[self.name](rng, training)
        entries: list[Entry] = []
        while len(entries) < size:
            source, texts = make()
            if seen.isdisjoint((source, *texts)):
                seen.update((source, *texts))
                entries.append((source, texts))
        return entries
