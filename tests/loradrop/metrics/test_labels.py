"""The metrics against scikit-learn and scipy called directly, and that they leave nothing
behind."""

import math
import pickle
import socket
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from loradrop.metrics.labels import Accuracy, AccuracyF1, Matthews, Spearman

CLASSIFIERS = [Matthews, Accuracy, AccuracyF1]


def expected(cls, predictions, references):
    if cls is Matthews:
        return {"matthews_correlation": sk.matthews_corrcoef(references, predictions)}
    if cls is Spearman:
        return {
            "spearman": stats.spearmanr(predictions, references).statistic,
            "pearson": stats.pearsonr(predictions, references).statistic,
        }
    f1 = {"f1": sk.f1_score(references, predictions)} if cls is AccuracyF1 else {}
    return {"accuracy": sk.accuracy_score(references, predictions)} | f1


def draw(cls, rng, n):
    if cls is Spearman:  # scores with many ties, as in STS-B
        references = rng.integers(0, 26, n) / 5
        return np.round(references + rng.normal(size=n), 2), references
    references = rng.integers(0, 2, n)
    return np.where(rng.random(n) < 0.7, references, 1 - references), references


@pytest.mark.parametrize("cls", [*CLASSIFIERS, Spearman])
def test_agrees_with_the_reference_on_every_call(cls):
    rng, metric = np.random.default_rng(0), cls()
    for n in (40, 501, 3000):
        predictions, references = draw(cls, rng, n)
        got = metric.compute(predictions=predictions, references=references)
        assert got == pytest.approx(expected(cls, predictions, references), abs=1e-12)
        assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("cls", [*CLASSIFIERS, Spearman])
def test_batches_equal_one_call(cls):
    predictions, references = draw(cls, np.random.default_rng(1), 90)
    metric, whole = cls(), cls().compute(predictions=predictions, references=references)
    for part in np.array_split(np.arange(90), 4):
        metric.add_batch(predictions=predictions[part], references=references[part])
    assert metric.compute() == whole


def test_accuracy_of_three_classes():
    predictions, references = [0, 1, 2, 2, 1], [0, 2, 2, 2, 0]
    assert Accuracy().compute(predictions=predictions, references=references) == {"accuracy": 0.6}


@pytest.mark.parametrize(
    ("cls", "predictions", "references", "values"),
    [
        (Matthews, [1, 1, 1], [0, 1, 0], {"matthews_correlation": 0.0}),
        (Matthews, [1, 1, 1], [1, 1, 1], {"matthews_correlation": 0.0}),
        (AccuracyF1, [0, 0, 0], [0, 0, 0], {"accuracy": 1.0, "f1": 0.0}),
        (AccuracyF1, [0, 0, 0], [0, 1, 0], {"accuracy": 2 / 3, "f1": 0.0}),
        (Spearman, [0.1, 0.1, 0.1], [0.0, 2.5, 5.0], {"spearman": 0.0, "pearson": 0.0}),
        (Spearman, [1.0], [2.0], {"spearman": 0.0, "pearson": 0.0}),
        # deviations whose squares are below the smallest double
        (Spearman, [0.0, 1e-200, 2e-200], [0.0, 2.5, 5.0], {"spearman": 1.0, "pearson": 1.0}),
    ],
)
def test_degenerate_vectors_have_a_value_and_no_warning(cls, predictions, references, values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cls().compute(predictions=predictions, references=references) == pytest.approx(
            values
        )


def test_a_diverged_regression_is_nan():
    scores = Spearman().compute(predictions=[1.0, math.nan, 2.0], references=[1.0, 2.0, 3.0])
    assert math.isnan(scores["pearson"])
    assert math.isnan(scores["spearman"])


def test_a_failed_call_does_not_spoil_the_next():
    metric = Accuracy()
    with pytest.raises(ValueError, match="Mismatch"):
        metric.compute(predictions=[0, 1], references=[1])
    with pytest.raises(ValueError, match="no predictions"):
        metric.compute(predictions=[], references=[])
    assert metric.compute(predictions=[1, 1], references=[1, 0]) == {"accuracy": 0.5}


def test_nothing_touches_the_disk_or_the_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for cls in (*CLASSIFIERS, Spearman):
        metric = pickle.loads(pickle.dumps(cls()))  # a spawned process gets it like this
        metric.compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert list(tmp_path.iterdir()) == []
