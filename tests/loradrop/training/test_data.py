"""The order, grouping and padding of batches."""

from __future__ import annotations

import random

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from loradrop import checksums
from loradrop.hub import ASSETS
from loradrop.seeds import Seeds
from loradrop.tasks.base import LabelTask, Splits
from loradrop.training import tokens
from loradrop.training.batches import Collator, LengthGroupedSampler, TextCollator
from loradrop.training.data import TaskData

LENGTHS = random.Random(0).choices(range(3, 61), k=1003)


def epoch(number=0, seed=0):
    sampler = LengthGroupedSampler(LENGTHS, 16, Seeds(seed))
    sampler.set_epoch(number)
    return list(sampler)


def test_every_row_once_in_batches_of_the_given_size():
    batches = epoch()
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert len(batches) == len(LengthGroupedSampler(LENGTHS, 16, Seeds(0))) == 63
    assert sorted(map(len, batches)) == [1003 % 16] + [16] * 62


def test_the_order_is_a_function_of_seed_and_epoch():
    assert epoch(2, seed=1) == epoch(2, seed=1)
    assert epoch(0) != epoch(1) and epoch(0, seed=0) != epoch(0, seed=1)


def test_little_padding_yet_no_sorted_epoch():
    def padded(batches):
        return sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)

    shuffled = [random.Random(1).sample(range(1003), 1003)[i : i + 16] for i in range(0, 1003, 16)]
    assert padded(epoch()) < 1.1 * sum(LENGTHS) < 1.5 * sum(LENGTHS) < padded(shuffled)
    longest = [max(LENGTHS[row] for row in batch) for batch in epoch()]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_the_skipped_batches_are_the_first_and_only_once():
    sampler = LengthGroupedSampler(LENGTHS, 16, Seeds(0), skip=20)
    assert list(sampler) == epoch()[20:] and list(sampler) == epoch()


class Toy(LabelTask):
    """Two classes, or a score."""


def toy(labels, values):
    task = Toy(
        name="toy",
        columns=["text"],
        labels=labels,
        metric="loradrop.metrics.labels.Accuracy",
        primary="accuracy",
    )
    rows = Dataset.from_dict({"text": [" ".join(["a"] * n) for n in (1, 9, 4)], "label": values})
    return task, Splits(rows, {"validation": rows})


def test_batches_are_padded_to_their_longest_row(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    data = TaskData(*toy(("no", "yes"), [0, 1, 1]), tokenizer, 8, 2, seeds=Seeds(0), cache=tmp_path)
    batches = list(data.evaluation_loaders()[0])
    assert data.lengths == [3, 8, 6]  # 1, 9 and 4 words in <s> and </s>, cut to 8
    (batch,) = batches
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 8)
    assert batch["attention_mask"].sum(1).tolist() == sorted(data.lengths, reverse=True)
    assert batch["labels"].dtype == torch.int64
    regression = TaskData(
        *toy(None, [0.5, 1.0, 5.0]), tokenizer, 8, 2, seeds=Seeds(0), cache=tmp_path
    )
    assert next(iter(regression.train_loader()))["labels"].dtype == torch.float32
    assert isinstance(regression.collate, Collator)


def test_token_ids_are_made_once_for_the_same_rows_tokenizer_and_length(tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    calls = []
    original = LabelTask.encode
    monkeypatch.setattr(LabelTask, "encode", lambda *a, **k: calls.append(1) or original(*a, **k))
    first = TaskData(
        *toy(("no", "yes"), [0, 1, 1]), tokenizer, 8, 2, seeds=Seeds(0), cache=tmp_path
    )
    made = len(calls)
    again = TaskData(
        *toy(("no", "yes"), [0, 1, 1]), tokenizer, 8, 2, seeds=Seeds(1), cache=tmp_path
    )
    assert len(calls) == made > 0 and again.train["input_ids"][:] == first.train["input_ids"][:]
    # other labels
    other = TaskData(
        *toy(("no", "yes"), [1, 1, 1]), tokenizer, 8, 2, seeds=Seeds(0), cache=tmp_path
    )
    assert other.train["label"][:] == [1, 1, 1] and len(calls) > made
    with pytest.raises(ValueError, match=r"recipe\.max_length must be at least 3 for toy, got 2"):
        TaskData(*toy(("no", "yes"), [0, 1, 1]), tokenizer, 2, 2, seeds=Seeds(0))
    shorter = TaskData(
        *toy(("no", "yes"), [0, 1, 1]), tokenizer, 5, 2, seeds=Seeds(0), cache=tmp_path
    )
    assert max(shorter.lengths) == 5


@pytest.mark.parametrize("bit", [None, 0, 100, 2000, -1, -100, -2000])
def test_damaged_token_ids_are_made_again(bit, tmp_path, caplog):
    """The offsets of a list are among the bits: Arrow trusts them, whatever they are."""
    arguments = (
        *toy(("no", "yes"), [0, 1, 1]),
        AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta"),
        8,
        2,
    )
    first = TaskData(*arguments, seeds=Seeds(0), cache=tmp_path).train[:]
    (path,) = tmp_path.glob("*/train.arrow")
    whole = path.read_bytes()
    changed = bytearray(whole if bit is not None else b"no arrow file")
    changed[(bit or 0) // 8] ^= 1 << (bit or 0) % 8
    path.unlink()  # the first one has it mapped into its memory
    path.write_bytes(changed)
    assert TaskData(*arguments, seeds=Seeds(0), cache=tmp_path).train[:] == first
    assert f"{path} does not match its checksum" in caplog.text and path.read_bytes() == whole
    caplog.clear()
    TaskData(*arguments, seeds=Seeds(0), cache=tmp_path)
    assert not caplog.text


def test_processes_that_tokenise_at_once_never_see_half_a_file(tmp_path, monkeypatch, caplog):
    arguments = (
        *toy(("no", "yes"), [0, 1, 1]),
        AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta"),
        8,
        2,
    )
    beside = []

    def write_beside(path):
        """Another process comes before the checksum is written, and again before it is in place."""
        monkeypatch.setattr(tokens, "write_beside", checksums.write_beside)
        beside.append(TaskData(*arguments, seeds=Seeds(0), cache=tmp_path).train[:])
        checksums.write_beside(path)
        beside.append(TaskData(*arguments, seeds=Seeds(0), cache=tmp_path).train[:])

    monkeypatch.setattr(tokens, "write_beside", write_beside)
    first = TaskData(*arguments, seeds=Seeds(0), cache=tmp_path).train[:]
    assert beside == [first, first] and not caplog.text
    (folder,) = tmp_path.iterdir()
    kept = {path.name: path for path in folder.iterdir()}
    assert sorted(kept) == [
        "train.arrow",
        "train.arrow.sha256",
        "validation.arrow",
        "validation.arrow.sha256",
    ]
    assert checksums.matches(kept["train.arrow"])


def test_pairs_the_other_way_round_are_other_token_ids(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    rows = Dataset.from_dict({"a": ["the dog"], "b": ["the cat sees the dog"], "label": [0]})
    ids = []
    for columns in (["a", "b"], ["b", "a"]):
        task = Toy(
            name="toy",
            columns=columns,
            labels=["x", "y"],
            metric="loradrop.metrics.labels.Accuracy",
            primary="accuracy",
        )
        ids += TaskData(
            task,
            Splits(rows, {"validation": rows}),
            tokenizer,
            30,
            2,
            seeds=Seeds(0),
            cache=tmp_path,
        ).train["input_ids"][:]
    assert ids[0] != ids[1] and sorted(ids[0]) == sorted(ids[1])


def test_a_part_of_the_rows_is_its_own_training_set(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    data = TaskData(*toy(("no", "yes"), [0, 1, 1]), tokenizer, 8, 2, seeds=Seeds(0), cache=tmp_path)
    part = data.of_rows([0, 2])
    assert part.lengths == [data.lengths[0], data.lengths[2]] and len(data.train) == 3
    (batch,) = part.train_loader()
    assert sorted(batch["labels"].tolist()) == [0, 1]
    assert set(data.sample(0.1)) <= {0, 1, 2} and len(data.sample(0.1)) == 2  # one of each class


def test_prompts_are_padded_on_the_left_and_with_their_targets_on_the_right():
    collate = TextCollator(AutoTokenizer.from_pretrained(ASSETS / "tiny_llama"))  # padding is 0
    prompts = collate({"input_ids": [[5], [6, 7, 8]]})
    assert {name: column.tolist() for name, column in prompts.items()} == {
        "input_ids": [[0, 0, 5], [6, 7, 8]],
        "attention_mask": [[0, 0, 1], [1, 1, 1]],
    }
    rows = {"input_ids": [[5, 2], [6, 7, 2]], "labels": [[-100, 2], [-100, 7, 2]]}
    assert {name: column.tolist() for name, column in collate(rows).items()} == {
        "input_ids": [[5, 2, 0], [6, 7, 2]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "labels": [[-100, 2, -100], [-100, 7, 2]],
    }
