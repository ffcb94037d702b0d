"""Files with one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file.

    Args:
        path: The file.
        keys: Keys for which each object must have a text.

    Raises:
        ValueError: A line is not a JSON object or lacks a key. The message names the line.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}).") from None
            absent = [
                key
                for key in keys
                if not isinstance(row, dict) or not isinstance(row.get(key), str)
            ]
            if absent:
                raise ValueError(f"{path}, line {number}: no text {', '.join(map(repr, absent))}.")
            yield row
