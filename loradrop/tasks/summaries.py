"""Summaries of documents, one JSON object per line: XSum and data sets in its shape.

{"document": "...", "summary": "..."}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loradrop.tasks.jsonl import read_lines
from loradrop.tasks.official import OfficialTask
from loradrop.tasks.text import Entry


@dataclass(frozen=True, kw_only=True)
class Summaries(OfficialTask):
    """Summaries, from local files alone where `url` is empty.

    Args:
        document: The key of the text.
        summary: The key of its summary.
    """

    document: str
    summary: str

    def read(self, path: Path, training: bool) -> list[Entry]:
        keys = self.document, self.summary
        return [(row[keys[0]], [row[keys[1]]]) for row in read_lines(path, *keys)]

    def fetch(self, split: str) -> Path:
        if not self.url:
            raise FileNotFoundError(f"{self.name} has no public address of single files")
        return super().fetch(split)
