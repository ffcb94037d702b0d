"""Read one split of a GLUE task from an official TSV, parquet files or an Arrow table.

Errors name the file and the line or row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features
from pyarrow import csv

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
    left_out: tuple[int, ...] = ()  # numbers of broken rows, ascending

    def where(self, index: int) -> str:
        number = index + self.first
        for broken in self.left_out:
            number += broken <= number
        return f"{self.source}, {self.unit} {number}"


def tsv_name(split: str) -> str:
    """Return the official file name of one of the Hub's splits."""
    return split.replace(VALIDATION, "dev") + ".tsv"


def read_tsv(
    path: Path,
    header: tuple[str, ...] | None,
    columns: Mapping[str, str],
    drop_broken: bool = False,
) -> Rows:
    """Read columns of a GLUE TSV. Nothing is quoted in it, so a quotation mark is text.

    Args:
        path: The file.
        header: The column names of a file without a header line.
        columns: The columns to read: our name -> the name in the file.
        drop_broken: Whether to leave out lines with a wrong number of fields.

    Raises:
        ValueError: A line has a wrong number of fields or is not UTF-8. The message names it.
    """
    table, broken = _parse_tsv(path, header, list(columns.values()))
    names = table.column_names
    absent = [name for name in columns.values() if names.count(name) != 1]
    if absent:
        raise ValueError(
            f"{path}, line 1: no unique column {', '.join(map(repr, absent))}; "
            f"there are {brief(names)}."
        )
    if broken and not drop_broken:
        others = ", ".join(str(row.number) for row in broken[1:])
        raise ValueError(
            f"{path}, line {broken[0].number}: {broken[0].actual_columns} fields instead of "
            f"{len(names)} ({', '.join(names):.300})"
            f"{f' and lines {others} are like it' if others else '':.300}. Repair or remove it, "
            "take another copy of the file, or leave such lines out by task.broken_rows=drop."
        )
    count = table.num_rows
    while count and all(column[count - 1].as_py() in (None, "") for column in table.columns):
        count -= 1  # an empty line at the end
    return Rows(
        {ours: table.column(theirs).combine_chunks()[:count] for ours, theirs in columns.items()},
        path,
        unit="line",
        first=1 if header else 2,
        left_out=tuple(row.number for row in broken),
    )


def _parse_tsv(
    path: Path, header: tuple[str, ...] | None, texts: list[str]
) -> tuple[pa.Table, list[csv.InvalidRow]]:
    """Return the table, with the columns `texts` as texts, and lines that do not fit into it."""
    broken: list[csv.InvalidRow] = []
    content = path.read_bytes()
    try:
        content.decode()  # first: pyarrow hands over no broken row that it cannot decode
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not readable as a TSV in UTF-8 ({error.reason})."
        ) from None

    def leave_out(row: csv.InvalidRow) -> str:
        broken.append(row)
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            # threads would not know the numbers of the lines
            csv.ReadOptions(use_threads=False, column_names=header),
            csv.ParseOptions(
                delimiter="\t",
                quote_char=False,
                ignore_empty_lines=False,
                invalid_row_handler=leave_out,
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.string()), strings_can_be_null=False
            ),
        )
        return table, broken
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not readable as a TSV in UTF-8 ({error}).") from None


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
