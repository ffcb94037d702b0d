"""Turn a task's rows into token ids, once: they are kept in a cache with a checksum."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, disable_progress_bars, enable_progress_bars

from loradrop.checksums import SUFFIX, matches, write_beside
from loradrop.tasks.base import LABEL, Task

LONG = 20_000  # from this many rows on, tokenising shows a progress bar on a terminal
logger = logging.getLogger(__name__)


def tokenise(
    rows: Dataset, name: str, task: Task, tokenizer: Any, max_length: int, cache: Path | None
) -> Dataset:
    """Return token ids and labels. They are read from `cache` if they are there, and undamaged:
    Arrow does not check offsets, and a wrong one would crash the interpreter.
    """
    shows = len(rows) > LONG and sys.stderr.isatty()
    (enable_progress_bars if shows else disable_progress_bars)()
    encode = partial(
        rows.map,
        task.encode,
        batched=True,
        remove_columns=[column for column in rows.column_names if column != LABEL],
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
        new_fingerprint=cache and f"{cache.name}{name}",
        desc=f"tokenising {task.name} {name}",
    )
    if cache is None:
        return encode()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{name}.arrow"
    known = matches(path) if path.exists() else None
    if known is False:
        logger.warning("tokenising %s again: %s does not match its checksum", name, path)
    if not known:
        # several processes may do this at once: each writes a whole file, all of them the same
        with TemporaryDirectory(dir=cache, prefix=".") as own:
            written = Path(own, path.name)
            encode(cache_file_name=str(written))
            write_beside(written)
            for ready in (written.with_name(written.name + SUFFIX), written):
                ready.replace(cache / ready.name)
    return encode(cache_file_name=str(path), load_from_cache_file=True)
