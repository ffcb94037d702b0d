"""The GLUE tasks. All sources give the same rows: official TSVs, a `datasets` folder, the Hub.

A folder `<data>/<name>` or `<data>/<official>` (RTE, SST-2, STS-B, ...) comes before the Hub. For
each split it may contain
    train.tsv, dev.tsv      the official layout (MNLI: dev_matched.tsv, dev_mismatched.tsv)
    train/, validation/     the layout of `save_to_disk`
    train-*.parquet or <config>/train-*.parquet
                            the layout of the Hub's repository, which a download has as well
The test splits are not read: their labels were never published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from loradrop.hub import fetch_dataset, find_local
from loradrop.tasks.base import LABEL, TRAIN, LabelTask, Splits
from loradrop.tasks.glue_files import (
    VALIDATION,
    Rows,
    find_parquet,
    read_parquet,
    read_table,
    read_tsv,
    tsv_name,
)
from loradrop.tasks.missing import no_data, no_split
from loradrop.tasks.quoting import brief

DROP = "drop"  # of broken_rows
SCORES = (0.0, 5.0)  # the range of STS-B, the only regression of GLUE


@dataclass(frozen=True, kw_only=True)
class Glue(LabelTask):
    """One GLUE task: classification, or regression on 0 to 5 if `labels` is None."""

    official: str  # folder of the official download
    config: str  # name of the configuration on the Hub
    hub_id: str
    revision: str | None = None  # commit of the Hub's repository; None is its newest
    # parts of the evaluation set, e.g. matched and mismatched; empty for a single set
    parts: tuple[str, ...] = ()
    tsv_header: tuple[str, ...] | None = None  # column names of TSVs without a header line
    # our name -> the TSV's, if they differ
    tsv_columns: Mapping[str, str] = field(default_factory=dict)
    # what to do about TSV lines with a wrong number of fields: None is an error, or "drop"
    broken_rows: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.broken_rows not in (None, DROP):
            raise ValueError(f"broken_rows must be null or {DROP}, got {self.broken_rows!r}")
        # Hydra passes lists and its own mapping
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(
            self, "tsv_header", None if self.tsv_header is None else tuple(self.tsv_header)
        )
        object.__setattr__(self, "tsv_columns", dict(self.tsv_columns))

    @property
    def evaluation(self) -> dict[str, str]:
        """The Hub's split name for each part of the evaluation set."""
        return {part: f"{VALIDATION}_{part}" for part in self.parts} or {VALIDATION: VALIDATION}

    def load(self, data: Path | None) -> Splits:
        """Read the rows from a folder in `data`, or otherwise from the Hub or its cache.

        Args:
            data: The folder of local data sets, None if there is none.

        Raises:
            FileNotFoundError: There is no data. The message names the folder that would be used.
            ValueError: The data cannot be used. The message names the file and the line or row.
        """
        folder = find_local(data, self.name, self.official) or self._from_hub(data)
        notes: list[str] = []
        train = self._read(folder, TRAIN, notes)
        evaluation = {
            part: self._read(folder, split, notes) for part, split in self.evaluation.items()
        }
        missing = [split for part, split in self.evaluation.items() if evaluation[part] is None]
        if train is None or len(missing) == len(evaluation):
            lacks = [TRAIN] if train is None else missing
            raise no_split(self.name, folder, lacks, self._expected())
        notes += [
            f"{self.name}: no {split} split in the data folder; the scores leave it out"
            for split in missing
        ]
        return Splits(
            train, {part: rows for part, rows in evaluation.items() if rows is not None}, notes
        )

    def _expected(self) -> str:
        files = [tsv_name(split) for split in (TRAIN, *self.evaluation.values())]
        return (
            f"the official files ({', '.join(files)}) or a folder written by `datasets` "
            "(save_to_disk or parquet)"
        )

    def _read(self, folder: Path, split: str, notes: list[str]) -> Dataset | None:
        """Return the checked rows of a split in any of the formats, None if the folder has none.

        Rows that are left out are counted in `notes`.
        """
        tsv, saved = folder / tsv_name(split), folder / split
        if tsv.is_file():
            rows = read_tsv(
                tsv,
                self.tsv_header,
                {c: self.tsv_columns.get(c, c) for c in (*self.columns, LABEL)},
                drop_broken=self.broken_rows == DROP,
            )
            if rows.left_out:
                notes.append(
                    f"{self.name}: {len(rows.left_out)} broken lines of {tsv.name} left out"
                )
        elif (saved / "state.json").is_file():
            dataset = Dataset.load_from_disk(str(saved))
            rows = read_table(
                dataset.with_format("arrow")[:], dataset.features, saved, (*self.columns, LABEL)
            )
        elif files := find_parquet(folder, self.config, split):
            # several files form one split, so rows are counted over all of them
            source = files[0] if len(files) == 1 else files[0].parent / f"{split}-*.parquet"
            table = read_parquet(files, source)
            rows = read_table(
                table, Features.from_arrow_schema(table.schema), source, (*self.columns, LABEL)
            )
        else:
            return None
        return self._dataset(rows)

    def _from_hub(self, data: Path | None) -> Path:
        """Return the folder in the Hub's cache with this task, downloaded if necessary."""
        patterns = [
            f"{self.config}/{split}-*.parquet" for split in (TRAIN, *self.evaluation.values())
        ]
        try:
            return fetch_dataset(self.hub_id, self.revision, patterns)
        except FileNotFoundError as error:
            raise no_data(
                self.name, self.official, data, self._expected(), error
            ) from error.__cause__

    def _dataset(self, rows: Rows) -> Dataset:
        if len(rows.columns[LABEL]) == 0:
            raise ValueError(f"{self.name}: {rows.source} has no rows.")
        label = (
            Value("float32") if self.is_regression else ClassLabel(names=list(self.labels or ()))
        )
        labels = self._scores(rows) if self.is_regression else self._ids(rows)
        features = Features({column: Value("string") for column in self.columns} | {LABEL: label})
        return Dataset.from_dict({**rows.columns, LABEL: labels}, features=features)

    def _ids(self, rows: Rows) -> pa.Array:
        names = self.labels or ()
        ids: dict[object, int] = {}
        for i, name in enumerate(names):
            ids |= {name: i, str(i): i, i: i}
        values = rows.columns[LABEL].to_pylist()
        found = [ids.get(value) for value in values]
        if None in found:
            index = found.index(None)
            known = ", ".join(f"{name} ({i})" for i, name in enumerate(names))
            raise ValueError(
                f"{rows.where(index)}: label {brief(values[index])} is none of {known}."
            )
        return pa.array(found, pa.int64())

    def _scores(self, rows: Rows) -> pa.Array:
        low, high = SCORES
        scores = []
        for index, value in enumerate(rows.columns[LABEL].to_pylist()):
            try:
                score = float(value)
            except (TypeError, ValueError):
                score = float("nan")
            if not low <= score <= high:
                raise ValueError(
                    f"{rows.where(index)}: score {brief(value)} is not a number "
                    f"from {low:g} to {high:g}."
                )
            scores.append(score)
        # the Hub's precision: all sources must give the same fingerprint
        return pa.array(scores, pa.float32())
