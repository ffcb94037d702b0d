"""The metrics of the tasks as `evaluate.Metric` classes: no network, no files, no arguments.

Values are in the metric's own units (1 is perfect), not in percent.
"""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
from datasets import Features, Value


class OfflineMetric(evaluate.Metric):
    """Base class whose rows stay in memory, so parallel runs cannot meet in a cache folder."""

    dtype = "int64"  # the type of predictions and references; a subclass may change it
    # the form of what `_compute` gets. None is Python lists, which rows of several values need
    layout: str | None = "arrow"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _build_data_dir(self) -> str:
        # the base class would create a folder in the home directory even for a metric in memory
        return ""

    def _features(self) -> Features:
        """The types of one prediction and its reference."""
        return Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})

    def _info(self) -> evaluate.MetricInfo:
        text = type(self).__doc__ or ""
        return evaluate.MetricInfo(
            description=text,
            citation="",
            inputs_description=text,
            features=self._features(),
            format=self.layout,
        )

    def _compute(
        self, *, predictions: pa.ChunkedArray, references: pa.ChunkedArray
    ) -> dict[str, float]:
        if len(predictions) == 0:
            raise ValueError(f"{type(self).__name__}: there are no predictions to score.")
        values = self._values(predictions.to_numpy(), references.to_numpy())
        return {key: float(value) for key, value in values.items()}

    def _values(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        raise NotImplementedError


class Accuracy(OfflineMetric):
    """`accuracy`: the share of predictions that equal the reference."""

    def _values(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": np.mean(predictions == references)}


class AccuracyF1(OfflineMetric):
    """`accuracy`, and `f1` of the positive class (id 1), which is 0 if that class never occurs."""

    def _values(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import f1_score

        f1 = f1_score(references, predictions, labels=[1], average="macro", zero_division=0.0)
        return {"accuracy": np.mean(predictions == references), "f1": f1}


class Matthews(OfflineMetric):
    """`matthews_correlation`, -1 to 1; 0 if all predictions or all references are the same."""

    def _values(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import matthews_corrcoef

        # scikit-learn may warn for these
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        return {
            "matthews_correlation": 0.0 if constant else matthews_corrcoef(references, predictions)
        }


class Spearman(OfflineMetric):
    """`spearman` and `pearson`, -1 to 1; 0 if all predictions or all references are equal."""

    dtype = "float64"

    def _values(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr

        if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
            # the score of a diverged model must not look like a 0
            return dict.fromkeys(("spearman", "pearson"), float("nan"))
        if np.ptp(predictions) == 0 or np.ptp(references) == 0:  # scipy warns and returns NaN
            return dict.fromkeys(("spearman", "pearson"), 0.0)
        return {
            "spearman": spearmanr(predictions, references).statistic,
            "pearson": pearsonr(predictions, references).statistic,
        }
