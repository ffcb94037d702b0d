r"""DialogSum (Chen et al. 2021): summaries of everyday dialogues.

    {"fname": "train_0", "dialogue": "#Person1#: ...\n#Person2#: ...",
     "summary": "...", "topic": "..."}

The test file has three summaries of each dialogue (`summary1` to `summary3`). They are the
references of one example.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from loradrop.tasks.jsonl import read_lines
from loradrop.tasks.official import OfficialTask
from loradrop.tasks.text import Entry

DIALOGUE, SUMMARY = "dialogue", "summary"
SUMMARIES = ("summary1", "summary2", "summary3")


class DialogSum(OfficialTask):
    """Summaries of dialogues."""

    official_metric: ClassVar[str | None] = "loradrop.metrics.official.StemmedRouge"

    def read(self, path: Path, training: bool) -> list[Entry]:
        entries = []
        for number, row in enumerate(read_lines(path, DIALOGUE), start=1):
            summaries = [row[key] for key in (SUMMARY, *SUMMARIES) if key in row]
            if not summaries:
                raise ValueError(
                    f"{path}, entry {number}: no text {SUMMARY!r} or {SUMMARIES[0]!r}."
                )
            entries.append((row[DIALOGUE], summaries))
        return entries
