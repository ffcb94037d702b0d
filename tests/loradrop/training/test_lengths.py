"""Rows over recipe.max_length are an error, cut, or left out of training, and always counted."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from loradrop.hub import ASSETS
from loradrop.seeds import Seeds
from loradrop.tasks.base import LabelTask, Splits
from loradrop.tasks.text import TextTask, evaluation_rows, training_rows
from loradrop.training.data import TaskData

METRIC = {"metric": "loradrop.metrics.labels.Accuracy", "primary": "accuracy"}
TEXT = TextTask(name="toy", template="{source} :", max_new_tokens=5, **METRIC)
WORDS = (1, 9, 4)  # and <s> and </s>


def labelled(long_rows, max_length=8):
    task = LabelTask(name="toy", columns=("text",), labels=("no", "yes"), **METRIC)
    rows = Dataset.from_dict({"text": [" ".join(["a"] * n) for n in WORDS], "label": [0, 1, 1]})
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    splits = Splits(rows, {"validation": rows})
    return TaskData(task, splits, tokenizer, max_length, 2, Seeds(0), long_rows=long_rows)


def generated(long_rows, max_length, target="b"):
    train = training_rows([("a", "b"), ("a", target)], "made up")
    splits = Splits(train, {"validation": evaluation_rows([("a", ["b"])], "made up")})
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_llama")
    return TaskData(TEXT, splits, tokenizer, max_length, 2, Seeds(0), long_rows=long_rows)


def found(split):
    return f"toy: 1 of 3 rows of {split} are longer than recipe.max_length = 8; 11 would suffice"


def test_cut_rows_are_counted():
    data = labelled("truncate")
    assert data.lengths == [3, 8, 6]
    assert data.splits.notes == [
        f"{found(split)}. They were cut." for split in ("train", "validation")
    ]
    assert set(data.train.column_names) == {"input_ids", "attention_mask", "label"}


def test_dropped_rows_are_left_out_of_training_alone():
    data = labelled("drop")
    assert data.lengths == [3, 6] and data.train["label"][:] == [0, 1]
    assert data.splits.train["label"][:] == [0, 1] and len(data.sample(1.0)) == 2
    assert len(data.evaluation["validation"]) == 3
    assert data.splits.notes == [
        f"{found('train')}. They were left out.",
        f"{found('validation')}. They were cut.",
    ]
    with pytest.raises(ValueError, match="leaves no row to train on"):
        generated("drop", max_length=4)


def test_an_error_names_the_length_that_would_suffice():
    with pytest.raises(ValueError, match=f"^{found('train')}. recipe.long_rows=truncate cuts"):
        labelled("error")
    data = labelled("error", max_length=11)
    assert data.lengths == [3, 11, 6] and data.splits.notes == []


def test_what_cannot_be_cut_is_an_error_unless_it_is_dropped():
    long = " ".join(["b"] * 20)
    whole = generated("error", 100, long)
    assert whole.splits.notes == []
    enough = max(whole.lengths)
    assert generated("error", enough, long).lengths == whole.lengths
    message = rf"1 of 2 rows of train .* = 12; {enough} would suffice. 1 of them cannot be cut"
    with pytest.raises(ValueError, match=message):
        generated("truncate", 12, long)
    assert generated("drop", 12, long).lengths == whole.lengths[:1]
    with pytest.raises(ValueError, match=r"rows of validation .* 1 of them cannot be cut"):
        generated("truncate", whole.lengths[0])
