r"""MBPP (Austin et al. 2021): short Python functions from a description and three tests.

    {"task_id": 2, "text": "Write a ...", "code": "def ...", "test_list": ["assert ..."]}

One file holds all splits, told apart by task_id as in the paper. Line ends of the code become \n.
"""

from __future__ import annotations

from pathlib import Path

from loradrop.tasks.jsonl import read_lines
from loradrop.tasks.official import OfficialTask
from loradrop.tasks.text import Entry

TRAIN_IDS, TEST_IDS = range(601, 975), range(11, 511)


class Mbpp(OfficialTask):
    """Python functions."""

    def read(self, path: Path, training: bool) -> list[Entry]:
        entries, wanted = [], TRAIN_IDS if training else TEST_IDS
        for number, row in enumerate(read_lines(path, "text", "code"), start=1):
            tests = row.get("test_list")
            if not isinstance(tests, list) or not isinstance(row.get("task_id"), int):
                raise ValueError(f"{path}, entry {number}: it needs task_id and test_list.")
            if row["task_id"] in wanted:
                source = "\n".join([row["text"], *map(str, tests)])
                entries.append((source, ["\n".join(row["code"].splitlines())]))
        return entries
