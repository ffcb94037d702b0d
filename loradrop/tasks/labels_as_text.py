"""A task with labels, asked in words and answered with the name of a label.

    sentence1: ...
    sentence2: ...

So a decoder learns understanding in the form in which it learns to generate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradrop.tasks.base import LABEL, LabelTask, Splits
from loradrop.tasks.text import Entry, TextTask, evaluation_rows, training_rows


@dataclass(frozen=True, kw_only=True)
class LabelsAsText(TextTask):
    """The rows of `labelled` as texts.

    Args:
        labelled: The task with labels. It must have classes.
    """

    labelled: LabelTask

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled.is_regression:
            raise ValueError(f"labelled: {self.labelled.name} has scores instead of labels")

    def load(self, data: Path | None) -> Splits:
        splits = self.labelled.splits(data)
        train = [(source, text) for source, (text,) in self._entries(splits.train)]
        return Splits(
            training_rows(train, self.name),
            {
                split: evaluation_rows(self._entries(rows), self.name)
                for split, rows in splits.evaluation.items()
            },
            splits.notes,
        )

    def _entries(self, rows: Any) -> list[Entry]:
        columns, names = self.labelled.columns, self.labelled.labels or ()
        return [
            ("\n".join(f"{column}: {row[column]}" for column in columns), [names[row[LABEL]]])
            for row in rows
        ]
