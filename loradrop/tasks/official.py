"""Generation tasks in the files of their authors, read from a local folder or downloaded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from loradrop.hub import find_local
from loradrop.tasks.base import TRAIN, Splits
from loradrop.tasks.download import cache_folder, fetch_file
from loradrop.tasks.missing import no_data, no_split
from loradrop.tasks.quoting import brief, is_text
from loradrop.tasks.text import Entry, TextTask, evaluation_rows, training_rows


@dataclass(frozen=True)
class OfficialFile:
    """A file as its authors publish it.

    The checksum verifies a download, or the number of rows where the checksum is not known.
    """

    name: str
    rows: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class OfficialTask(TextTask):
    """A task in its authors' files, from `<data>/<name>` or `<data>/<official>`, or from `url`."""

    official: str  # folder of the files below paths.data
    url: str  # the address of the folder with the files, at a pinned commit
    files: Mapping[str, Any]  # OfficialFile by split: train and those for evaluation
    evaluation: tuple[str, ...]  # the splits to evaluate on

    def __post_init__(self) -> None:
        super().__post_init__()
        files = {split: OfficialFile(**dict(file)) for split, file in self.files.items()}
        unchecked = [
            file.name for file in files.values() if file.rows is None and file.sha256 is None
        ]
        if unchecked:
            raise ValueError(
                f"files: {unchecked[0]} needs sha256 or rows, or a damaged download would pass"
            )
        # Hydra passes lists and its own mapping
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "evaluation", tuple(self.evaluation))
        known = [split for split in files if split != TRAIN]
        unknown = [split for split in self.evaluation if split not in known]
        if unknown or not self.evaluation:
            raise ValueError(
                f"evaluation must name some of {', '.join(known)}, got {list(self.evaluation)}"
            )

    def read(self, path: Path, training: bool) -> list[Entry]:
        """Return the entries of a file in its order.

        Args:
            path: The file.
            training: If False, all references of a source are in one entry.

        Raises:
            ValueError: The file cannot be used. The message names the file and the line.
        """
        raise NotImplementedError

    def load(self, data: Path | None) -> Splits:
        """Read the rows.

        Args:
            data: The folder of local data sets, None if there is none.

        Raises:
            FileNotFoundError: There are no files.
            ValueError: The files cannot be used.
        """
        folder = find_local(data, self.name, self.official)
        splits = (TRAIN, *self.evaluation)
        paths = {split: path for split in splits if folder and (path := self.find(folder, split))}
        missing = [split for split in splits if split not in paths]
        if folder and missing:
            raise no_split(self.name, folder, missing, self._expected())
        try:
            paths |= {split: self.fetch(split) for split in missing}
        except FileNotFoundError as error:
            raise no_data(
                self.name, self.official, data, self._expected(), error
            ) from error.__cause__
        train, notes = self._train_rows(self.entries(paths[TRAIN], training=True), paths[TRAIN])
        evaluation = {
            s: evaluation_rows(self.entries(paths[s], training=False), paths[s])
            for s in self.evaluation
        }
        return Splits(train, evaluation, notes)

    def entries(self, path: Path, training: bool) -> list[Entry]:
        """Return what `read` returns. Raise ValueError, naming the file, if it is not text."""
        try:
            entries = self.read(path, training)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None
        for number, (source, texts) in enumerate(entries, start=1):
            strange = [text for text in (source, *texts) if not is_text(text)]
            if strange:
                raise ValueError(f"{path}, entry {number}: {brief(strange[0])} is no text.")
        return entries

    def find(self, folder: Path, split: str) -> Path | None:
        """Return the file of a split in a local folder, None if there is none."""
        path = folder / self.files[split].name
        return path if path.is_file() else None

    def fetch(self, split: str) -> Path:
        """Return the file of a split from the cache or its public place.

        Raises:
            FileNotFoundError: The file cannot be downloaded. The message says why.
        """
        file = self.files[split]
        path = cache_folder(self.name, self.url) / file.name
        fetch_file(f"{self.url}/{file.name}", path, file.sha256)
        if file.sha256 is None:
            self._check_rows(path, file.rows)
        return path

    def _check_rows(self, path: Path, expected: int | None) -> None:
        """Remove a downloaded file with another number of rows, and raise FileNotFoundError."""
        try:
            if (rows := len(self.entries(path, training=True))) != expected:
                raise ValueError(f"{path} has {rows} rows instead of {expected}")
        except ValueError as error:
            path.unlink()
            raise FileNotFoundError(f"a wrong file was fetched: {error}") from error

    def _expected(self) -> str:
        names = ", ".join(self.files[split].name for split in (TRAIN, *self.evaluation))
        return f"the official files ({names})"

    def _train_rows(self, entries: list[Entry], path: Path) -> tuple[Dataset, list[str]]:
        pairs = [(source, text) for source, texts in entries for text in texts or [""]]
        kept = [(source, text) for source, text in pairs if text.strip()]
        lost = len(pairs) - len(kept)
        return training_rows(kept, path), [
            f"{self.name}: {lost} empty targets of {path.name} left out"
        ] if lost else []
