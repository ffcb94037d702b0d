"""Stratified samples against scikit-learn's split and by their invariants."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.model_selection import StratifiedShuffleSplit

from loradrop.sampling import quantile_bins, stratified_sample


def datasets_column(labels):
    return Dataset.from_dict({"label": labels}).with_format("torch")["label"]


LABELS = ["a"] * 700 + ["b"] * 250 + ["c"] * 50


def test_each_class_gives_its_share():
    labels = random.Random(0).sample(LABELS, len(LABELS))
    rows = stratified_sample(labels, 0.1, seed=0)
    ((theirs, _),) = StratifiedShuffleSplit(1, train_size=0.1, random_state=0).split(labels, labels)
    assert (
        Counter(labels[i] for i in rows)
        == Counter(labels[i] for i in theirs)
        == {"a": 70, "b": 25, "c": 5}
    )
    assert rows == sorted(set(rows))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((14, 15, 11), (1, 2, 1)),  # exactly 1.4, 1.5 and 1.1: the rest of 4 goes to 0.5
        ((19, 12, 19, 10), (2, 1, 2, 1)),  # 1.9, 1.2, 1.9, 1.0: two go to the 0.9s
        ((15, 15, 10), (2, 1, 1)),  # a tie: the stratum that came first
    ],
)
def test_what_is_left_over_goes_to_the_largest_remainders(sizes, expected):
    labels = [stratum for stratum, size in enumerate(sizes) for _ in range(size)]
    found = Counter(labels[i] for i in stratified_sample(labels, 0.1, seed=0))
    assert tuple(found[stratum] for stratum in range(len(sizes))) == expected


def test_reproducible_from_the_seed():
    assert stratified_sample(LABELS, 0.1, seed=1) == stratified_sample(LABELS, 0.1, seed=1)
    assert stratified_sample(LABELS, 0.1, seed=1) != stratified_sample(LABELS, 0.1, seed=2)


@pytest.mark.parametrize("ratio", [0.001, 0.013, 0.1, 0.37, 1])
def test_size_and_at_least_one_of_each(ratio):
    labels = [*LABELS, "rare"]
    rows = stratified_sample(labels, ratio, seed=0)
    assert {labels[i] for i in rows} == {"a", "b", "c", "rare"}
    assert len(rows) == pytest.approx(max(4, ratio * len(labels)), abs=1.01)


def test_all_of_it_is_all_of_it():
    assert stratified_sample(LABELS, 1, seed=5) == list(range(len(LABELS)))


@pytest.mark.parametrize(
    "form", [np.array, torch.tensor, lambda labels: list(torch.tensor(labels)), datasets_column]
)
def test_labels_in_several_forms(form):
    labels = [0] * 70 + [1] * 30
    assert stratified_sample(form(labels), 0.1, seed=3) == stratified_sample(labels, 0.1, seed=3)


def test_scores_are_binned_by_quantiles():
    draw = random.Random(0)
    scores = [draw.random() ** 3 for _ in range(1000)]
    bins = quantile_bins(scores, 10)
    assert Counter(bins) == dict.fromkeys(range(10), 100)
    order = sorted(range(1000), key=scores.__getitem__)
    assert [bins[i] for i in order] == sorted(bins)


def test_scores_that_are_not_binned_are_refused():
    """Each would be a stratum of its own, and the sample the whole training set."""
    scores = [i / 40 for i in range(200)]
    with pytest.raises(ValueError, match=r"200 different ones such as 0\.0: bin them first"):
        stratified_sample(scores, 0.1)
    assert len(stratified_sample(quantile_bins(scores), 0.1)) == 20
    assert len(stratified_sample([0.0, 1.0] * 100, 0.1)) == 20  # classes


def test_equal_values_share_a_bin():
    bins = quantile_bins([0.0] * 90 + [5.0] * 10, 10)
    assert len(set(bins[:90])) == 1 and len(set(bins)) == 2
    assert quantile_bins([3.0] * 5) and len(set(quantile_bins([3.0] * 5))) == 1


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(ValueError, match=r"sample ratio must lie in \(0, 1\]"):
        stratified_sample(LABELS, ratio, seed=0)


def test_nothing_to_sample_from():
    with pytest.raises(ValueError, match="no examples"):
        stratified_sample([], 0.5, seed=0)


def test_defaults_are_the_documented_ones():
    assert stratified_sample(LABELS, 0.1) == stratified_sample(LABELS, 0.1, seed=0)
    assert stratified_sample(LABELS, 0.1) != stratified_sample(LABELS, 0.1, seed=1)
    scores = [float(score) for score in range(110)]
    assert quantile_bins(scores) == quantile_bins(scores, 10) != quantile_bins(scores, 11)
    assert quantile_bins([]) == []
