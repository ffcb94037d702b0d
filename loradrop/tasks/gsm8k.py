r"""GSM8K (Cobbe et al. 2021): arithmetic word problems with solutions, as JSONL or from the Hub.

    {"question": "...", "answer": "... 3*4 = <<3*4=12>>12 ...\n#### 12"}

The target is the unchanged answer with the calculator's annotations. The number after #### is
scored. A local folder may also have the Hub's layout, main/train-*.parquet. Without a folder the
Hub is tried before the authors' repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from loradrop.hub import fetch_dataset
from loradrop.tasks.glue_files import find_parquet, read_parquet
from loradrop.tasks.jsonl import read_lines
from loradrop.tasks.official import OfficialTask
from loradrop.tasks.quoting import brief
from loradrop.tasks.text import Entry

QUESTION, ANSWER = "question", "answer"


@dataclass(frozen=True, kw_only=True)
class Gsm8k(OfficialTask):
    """Word problems; loradrop.metrics.text.FinalAnswer finds the number in a generated text."""

    official_metric: ClassVar[str | None] = "loradrop.metrics.official.Gsm8kRule"

    config: str  # name of the configuration on the Hub
    hub_id: str
    revision: str | None = None  # commit of the Hub's repository; None is its newest

    def entries(self, path: Path, training: bool) -> list[Entry]:
        from loradrop.metrics.text import final_answer  # late: evaluate's import takes seconds

        entries = super().entries(path, training)
        for number, (_, (answer,)) in enumerate(entries, start=1):
            if final_answer(answer) is None:  # better now than after training
                raise ValueError(
                    f"{path}, entry {number}: the answer has no number: {brief(answer)}."
                )
        return entries

    def read(self, path: Path, training: bool) -> list[Entry]:
        if path.suffix != ".parquet":
            return [(row[QUESTION], [row[ANSWER]]) for row in read_lines(path, QUESTION, ANSWER)]
        table = read_parquet([path], path)
        absent = [name for name in (QUESTION, ANSWER) if name not in table.column_names]
        if absent:
            raise ValueError(
                f"{path}: no column {', '.join(map(repr, absent))}; "
                f"there are {brief(table.column_names)}."
            )
        questions, answers = (table.column(name).to_pylist() for name in (QUESTION, ANSWER))
        return [(question, [answer]) for question, answer in zip(questions, answers, strict=True)]

    def find(self, folder: Path, split: str) -> Path | None:
        parquet = find_parquet(folder, self.config, split)
        return super().find(folder, split) or (parquet[0] if len(parquet) == 1 else None)

    def fetch(self, split: str) -> Path:
        try:
            folder = fetch_dataset(self.hub_id, self.revision, [f"{self.config}/{split}-*.parquet"])
            return find_parquet(folder, self.config, split)[0]
        except (FileNotFoundError, IndexError) as error:
            on_hub = error
        try:
            return super().fetch(split)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{on_hub}, and {error}") from error
