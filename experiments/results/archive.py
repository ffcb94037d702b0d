"""Archives: finished results as a few sorted JSON-lines files for version control.

<folder>/<backbone>.jsonl has one line per run, sorted by id: the fields of its result file and, as
`analyses`, later measurements of its model. Weights and predictions are left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.common.files import atomic_write
from experiments.config.schema import UserError
from experiments.results.result import Result, to_plain
from loradrop.checksums import loads

ANALYSES = "analyses"
Line = Mapping[str, Any]


def lines(folder: str | Path) -> Mapping[str, Line]:
    """Read the lines of an archive, keyed by id; empty if the folder holds no archive.

    Raises:
        UserError: If a line is not a result, or two different lines have the same id.
    """
    files = sorted(Path(folder).glob("*.jsonl"))
    return _read(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def file_of(folder: str | Path, id: str) -> Path | None:
    """The archive file that has a line with this id, or None."""
    found = lines(folder).get(id)
    return Path(folder) / f"{found['config']['backbone']['name']}.jsonl" if found else None


def line(result: Result, analyses: Mapping[str, Any] | None) -> dict[str, Any]:
    """Make the archive line of a result.

    Args:
        result: The result.
        analyses: Later measurements of its model, by name.
    """
    return {**to_plain(result), **({ANALYSES: dict(analyses)} if analyses else {})}


def merged(line: Line, other: Line) -> Line:
    """Add to a line the later measurements that it lacks, from another line of its run.

    Args:
        line: A line, which keeps what it has.
        other: Of the same run, carried out again perhaps. Measurements of a model with other scores
            or importances are not those of the line's model, and are left out.
    """
    lacking = other.get(ANALYSES, {}).keys() - line.get(ANALYSES, {}).keys()
    if not lacking or not same_numbers(line, other):
        return line
    return {**line, ANALYSES: {**other[ANALYSES], **line.get(ANALYSES, {})}}


def same_numbers(line: Line, other: Line) -> bool:
    """Whether two runs of a config agree in all that both recorded; metrics are added at times."""
    epochs, others = ((one.get("metrics") or {}).get("epochs", []) for one in (line, other))
    if line.get("importance") != other.get("importance") or len(epochs) != len(others):
        return False
    pairs = zip(epochs, others, strict=True)
    return all(mine[key] == its[key] for mine, its in pairs for key in mine.keys() & its.keys())


@lru_cache(maxsize=8)
def _read(files: tuple[tuple[Path, int, int], ...]) -> Mapping[str, Line]:
    found: dict[str, Line] = {}
    for file, _, _ in files:
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = loads(text)
                id = line["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{file}, line {number}: not a result ({type(error).__name__}: {error})"
                ) from error
            if found.setdefault(id, line) != line:
                raise UserError(f"{file}, line {number}: another line already has the id {id}")
    return found


def write(folder: str | Path, content: Iterable[Line]) -> list[Path]:
    """Replace the archive in a folder by these lines; files no longer needed are removed last.

    Returns:
        The archive's files.
    """
    by_file: dict[Path, list[Line]] = defaultdict(list)
    for line in sorted(content, key=lambda line: line["id"]):
        by_file[Path(folder) / f"{line['config']['backbone']['name']}.jsonl"].append(line)
    for file, some in by_file.items():
        with atomic_write(file) as path:
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in some)
            path.write_text(text, encoding="utf-8")
    for file in set(Path(folder).glob("*.jsonl")) - set(by_file):
        file.unlink()
    return sorted(by_file)
