"""The contract of a task: load rows, encode text, decode a model's output, score predictions.

A task is a small frozen object whose fields are the keys of its YAML in conf/task. A new data
format is a subclass in this folder that overrides `load`; a new data set in a known format is one
YAML. Tasks with labels are below, tasks that answer with a text are in text.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import Dataset

from loradrop.sampling import quantile_bins, stratified_sample

if TYPE_CHECKING:
    import evaluate

LABEL = "label"
TRAIN = "train"
HELD_BACK = "held_back"
# of encoded rows: the tokens of the whole row, and 1 if it fits into max_length, whole or cut
NEEDED, FITS = "needed", "fits"
# a text that spells a special token, e.g. </s>, is a text for every tokenizer
LITERAL = {"split_special_tokens": True}
Values = Sequence[Any] | np.ndarray  # the predictions for a split, or their references


@dataclass
class Splits:
    """The rows of a task.

    Args:
        train: Text columns and `label` (a class id or a float score), or the columns of text.py.
        evaluation: Rows by split name, e.g. validation, or matched and mismatched.
        notes: What a reader of the result must know, e.g. that a split is missing.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Hash all texts and labels. The source (Hub, TSV or parquet) makes no difference."""
        digest = hashlib.sha256()
        for name, rows in [(TRAIN, self.train), *sorted(self.evaluation.items())]:
            digest.update(name.encode())
            for column in sorted(rows.column_names):
                digest.update(column.encode())
                digest.update("\x1f".join(map(str, rows[column][:])).encode())
        return digest.hexdigest()[:16]


@cache
def load_metric(name: str) -> evaluate.Metric:
    """Return the metric with this dotted name. The import is late as `evaluate` takes seconds.

    Raises:
        ValueError: There is no such metric.
    """
    import evaluate

    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"task.metric: there is no metric {name} ({error})") from error
    if not (isinstance(found, type) and issubclass(found, evaluate.EvaluationModule)):
        raise ValueError(f"task.metric: {name} is no class of a metric (evaluate.Metric)")
    return found()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set and its metric. `generates` is True for tasks that answer with a text."""

    generates: ClassVar[bool] = False
    # dotted name of the metric of the data's authors, whose scores stand beside the task's own
    official_metric: ClassVar[str | None] = None

    name: str
    metric: str  # dotted name of an evaluate.Metric class, e.g. loradrop.metrics.labels.Accuracy
    primary: str  # the metric's key that tables show and that picks the best epoch

    def check_metric(self) -> None:
        """Raise ValueError if the metric does not exist or does not return the primary score."""
        scores = self.score({"made-up rows": self._made_up()})
        if self.primary not in scores:
            raise ValueError(
                f"task.primary: {self.metric} gives {', '.join(scores)}, not '{self.primary}'"
            )

    def check_references(self, splits: Splits) -> None:
        """Raise ValueError if a metric cannot score the rows for evaluation."""

    def load(self, data: Path | None) -> Splits:
        """Read the rows.

        Args:
            data: The folder of local data sets, None if there is none.
        """
        raise NotImplementedError

    def splits(self, data: Path | None) -> Splits:
        """Return the rows that a run uses: those of `load`, unless the task's keys change them.

        Args:
            data: The folder of local data sets, None if there is none.
        """
        return self.load(data)

    @property
    def encoding(self) -> tuple[str, ...]:
        """What token ids depend on besides rows, task class, tokenizer and max_length."""
        raise NotImplementedError

    def encode(self, rows: Mapping[str, list], tokenizer: Any, max_length: int) -> dict[str, list]:
        """Tokenise a batch of rows.

        Args:
            rows: Columns by name.
            tokenizer: The backbone's tokenizer.
            max_length: Longer texts are cut to this number of tokens.

        Returns:
            Columns of token ids, without padding, and NEEDED and FITS.
        """
        raise NotImplementedError

    def shortest(self, tokenizer: Any) -> int:
        """Return the smallest max_length that leaves room for a text."""
        return 1

    def strata(self, rows: Dataset) -> Sequence[Hashable]:
        """Return the stratum of each row of the training set, for a stratified sample."""
        raise NotImplementedError

    def score(self, outputs: Mapping[str, tuple[Values, Values]]) -> dict[str, float]:
        """Score all splits together and, if there are several, each one alone.

        Args:
            outputs: Predictions and references by split.

        Returns:
            The metrics' own keys and units (0 to 1 for most). Keys of a single split end in
            `_<split>`.
        """
        together = (
            [one for part in parts for one in part] for parts in zip(*outputs.values(), strict=True)
        )
        scores = self._computed(*together)
        if len(outputs) > 1:
            for split, of_split in outputs.items():
                alone = self._computed(*of_split)
                scores |= {f"{key}_{split}": value for key, value in alone.items()}
        return scores

    def _computed(self, predictions: Values, references: Values) -> dict[str, float]:
        """Return the task's scores and the official ones."""
        return {
            key: float(value)
            for metric in self._metrics()
            for key, value in metric.compute(predictions=predictions, references=references).items()
        }

    def _metrics(self) -> list[evaluate.Metric]:
        return [load_metric(name) for name in (self.metric, self.official_metric) if name]

    def _made_up(self) -> tuple[Values, Values]:
        """Return two predictions and their references, to try a metric on."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LabelTask(Task):
    """Sequence classification, or regression if `labels` is None."""

    columns: tuple[str, ...]  # one text column, or two for sentence pairs
    labels: tuple[str, ...] | None  # class names in the order of their ids
    # evaluate on this share of the training set instead, and train on the rest: for choosing
    # hyper-parameters. The evaluation set that is reported then has no part in the choice
    held_back: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise ValueError(f"columns must be a list, e.g. [{self.columns}]")
        # Hydra passes lists
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "labels", None if self.labels is None else tuple(self.labels))
        if len(self.columns) not in (1, 2):
            raise ValueError(f"columns must name one or two, got {list(self.columns)}")
        if self.labels is not None and len(set(self.labels)) != max(2, len(self.labels)):
            raise ValueError(
                "labels must name two or more classes, each once, or be null for a score, "
                f"got {list(self.labels)}"
            )

    @property
    def num_labels(self) -> int:
        return 1 if self.labels is None else len(self.labels)

    @property
    def is_regression(self) -> bool:
        return self.labels is None

    @property
    def encoding(self) -> tuple[str, ...]:
        return self.columns

    def splits(self, data: Path | None) -> Splits:
        """Return the rows of `load`; with `held_back`, training rows alone, in two parts.

        Args:
            data: The folder of local data sets, None if there is none.

        Raises:
            ValueError: `held_back` is no share between 0 and 1.
        """
        if self.held_back is None:
            return self.load(data)
        if not 0 < self.held_back < 1:
            raise ValueError(f"task.held_back must lie between 0 and 1, got {self.held_back}")
        splits = self.load(data)
        # the same rows for every seed, so that runs are compared on the same rows
        held = stratified_sample(self.strata(splits.train), self.held_back, seed=0)
        rest = sorted(set(range(len(splits.train))) - set(held))
        if not rest:
            raise ValueError(f"task.held_back={self.held_back} leaves no rows to train on")
        note = f"{self.name}: evaluated on {len(held)} rows held back from the training set"
        return Splits(splits.train.select(rest), {HELD_BACK: splits.train.select(held)}, [note])

    def shortest(self, tokenizer: Any) -> int:
        return tokenizer.num_special_tokens_to_add(pair=len(self.columns) > 1) + len(self.columns)

    def encode(
        self, rows: Mapping[str, list[str]], tokenizer: Any, max_length: int
    ) -> dict[str, list]:
        texts = [rows[column] for column in self.columns]
        # verbose: no warning of texts longer than the model takes, which are cut below
        encoded = tokenizer(*texts, verbose=False, **LITERAL)
        needed = [len(ids) for ids in encoded["input_ids"]]
        if max(needed) > max_length:
            encoded = tokenizer(*texts, truncation=True, max_length=max_length, **LITERAL)
        return {**encoded, NEEDED: needed, FITS: [1] * len(needed)}

    def strata(self, rows: Dataset) -> Sequence[Hashable]:
        """Return the classes, or quantiles of the score if there are no classes."""
        labels = list(rows[LABEL])
        return quantile_bins(labels) if self.is_regression else labels

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """(n, num_labels) logits -> (n,) class ids or scores."""
        return logits[:, 0] if self.is_regression else logits.argmax(-1)

    def _made_up(self) -> tuple[Values, Values]:
        ids = np.array([0, 1], dtype=float if self.is_regression else int)
        return ids, ids
