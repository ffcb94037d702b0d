"""Read one split of a GLUE task from an official TSV, parquet files or an Arrow table.

Errors name the file and the line or row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from loradrop.tasks.base import LABEL
from loradrop.tasks.quoting import brief

VALIDATION = "validation"


@dataclass
class Rows:
    """The columns of one split as they were read, and the place of each row for error messages."""

    columns: dict[str, pa.Array]
    source: Path
    unit: str = "row"  # what the rows are counted in
    first: int = 1  # the number of the first row

    def where(self, index: int) -> str:
        return f"{self.source}, {self.unit} {index + self.first}"


def tsv_name(split: str) -> str:
    """Return the official file name of one of the Hub's splits."""
    return split.replace(VALIDATION, "dev") + ".tsv"


def read_tsv(path: Path, header: tuple[str, ...] | None, columns: Mapping[str, str]) -> Rows:
    """Read columns of a GLUE TSV.

    GLUE's files quote nothing, so a quotation mark is text. Only a line feed ends a line; a form
    feed or U+2028 is text as well.

    Args:
        path: The file.
        header: The column names of a file without a header line.
        columns: The columns to read: our name -> the name in the file.

    Raises:
        ValueError: A row has a wrong number of fields or is not UTF-8. The message names the line.
    """
    with path.open("rb") as file:
        lines = enumerate(iter_lines(file, path), start=1)
        first = 1 if header else 2
        names = list(header or decode(next(lines, (1, b""))[1], path, 1).split("\t"))
        absent = [name for name in columns.values() if name not in names]
        if absent:
            raise ValueError(
                f"{path}, line 1: no column {', '.join(map(repr, absent))}; "
                f"there are {brief(names)}."
            )
        places = [names.index(name) for name in columns.values()]
        values: list[list[str]] = [[] for _ in places]
        broken: list[tuple[int, int]] = []  # line and its number of fields
        for number, line in lines:
            fields = line.split(b"\t")
            if len(fields) != len(names):
                broken.append((number, len(fields)))
                continue
            for place, column in zip(places, values, strict=True):
                column.append(decode(fields[place], path, number))
    if broken:
        number, count = broken[0]
        others = (
            f" and lines {', '.join(str(line) for line, _ in broken[1:])} are like it"
            if broken[1:]
            else ""
        )
        raise ValueError(
            f"{path}, line {number}: {count} fields instead of {len(names)} "
            f"({', '.join(names):.300}){others:.300}. "
            "Repair or remove it, or take another copy of the file."
        )
    arrays = {
        name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)
    }
    return Rows(arrays, path, unit="line", first=first)


def iter_lines(file: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Yield lines without ends and byte-order mark. Empty lines may stand at the end only."""
    empty = 0
    for number, line in enumerate(file, start=1):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            empty = empty or number
            continue
        if empty:
            raise ValueError(f"{path}, line {empty}: an empty line between rows. Remove it.")
        yield line


def decode(text: bytes, path: Path, line: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {line}: not UTF-8 ({error.reason}). Convert the file to UTF-8."
        ) from None


def find_parquet(folder: Path, config: str, split: str) -> list[Path]:
    """Return the parquet files of a split in order.

    Raises:
        FileNotFoundError: Some files of a numbered set are missing.
    """
    for place in (folder, folder / config):
        files = sorted([*place.glob(f"{split}.parquet"), *place.glob(f"{split}-*.parquet")])
        if files:
            total = re.search(r"-of-0*(\d+)\.parquet$", files[0].name)
            if total and len(files) != int(total[1]):
                raise FileNotFoundError(
                    f"{place}: {len(files)} of the {total[1]} files {split}-*.parquet are there."
                )
            return files
    return []


def read_parquet(files: list[Path], source: Path) -> pa.Table:
    try:
        return pa.concat_tables(pq.read_table(file) for file in files)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{source}: not readable as parquet ({error}).") from None


def read_table(table: pa.Table, features: Features, source: Path, columns: tuple[str, ...]) -> Rows:
    """Read columns of an Arrow table.

    Class ids become class names if the table knows these, as its order may differ from ours.
    """
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise ValueError(
            f"{source}: no column {', '.join(map(repr, absent))}; "
            f"there are {brief(table.column_names)}."
        )
    arrays = {name: table.column(name).combine_chunks() for name in columns}
    for name, array in arrays.items():
        if name != LABEL and not (
            pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
        ):
            raise ValueError(f"{source}: column {name!r} holds {array.type} instead of text.")
        if array.null_count:
            row = array.is_null().to_pylist().index(True) + 1
            raise ValueError(f"{source}, row {row}: column {name!r} has no value.")
    if isinstance(features[LABEL], ClassLabel):
        names = features[LABEL].names
        ids = arrays[LABEL].to_pylist()
        arrays[LABEL] = pa.array(
            [names[i] if 0 <= i < len(names) else str(i) for i in ids], pa.string()
        )
    return Rows(arrays, source)
