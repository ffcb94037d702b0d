"""Turn a task's rows into token ids, once: they are kept in a cache with a checksum."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, enable_progress_bars

from loradrop.checksums import matches, write_beside
from loradrop.tasks.base import LABEL, Task

LONG = 20_000  # from this many rows on, tokenising shows a progress bar
logger = logging.getLogger(__name__)


def tokenise(
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
