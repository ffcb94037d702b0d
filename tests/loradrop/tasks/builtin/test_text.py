"""The built-in generation tasks: no leak, right answers score 1, and copying the input does not
pay.
"""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from loradrop.hub import ASSETS
from loradrop.sampling import stratified_sample

CONF = ROOT / "conf/task"
NAMES = ("mini_table2text", "mini_summary")


def make(name, **changes):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")


@pytest.mark.parametrize("name", NAMES)
def test_built_in_rows(name, tokenizer):
    task = make(name)
    splits = task.load(None)
    train, validation = splits.train, splits.evaluation["validation"]
    assert (len(train), len(validation)) == (task.train_size, task.validation_size)
    assert (
        task.load(None).fingerprint()
        == splits.fingerprint()
        != make(name, data_seed=1).load(None).fingerprint()
    )

    # no leak: neither sources nor answers
    answers = [text for texts in validation["references"] for text in texts]
    assert not set(train["source"]) & set(validation["source"]) and not set(train["target"]) & set(
        answers
    )
    assert len(set(train["source"])) == len(train) and len(set(answers)) == len(answers)
    known = set(
        " ".join(train["source"]).replace(".", " ").replace("?", " ").replace(":", " ").split()
    )
    new = [set(text.replace(".", "").replace(",", "").split()) - known for text in answers]
    assert sum(map(bool, new)) > len(answers) / 4  # values that training never shows

    longest = max(len(ids) for ids in tokenizer(answers + train["target"][:])["input_ids"])
    assert longest <= task.max_new_tokens
    assert max(task.encode(train[:], tokenizer, 200)["needed"]) <= 200


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mini_table2text", 5), ("mini_summary", 3)])
def test_right_answers_score_1_and_copying_far_less(name, least):
    task = make(name)
    validation = task.load(None).evaluation["validation"]
    references = validation["references"][:]
    assert {len(texts) for texts in references} == {least}
    for i in range(least):
        scores = task.score_texts([texts[i] for texts in references], references)
        assert scores["bleu"] == scores["rouge_l"] == 1.0
    copied = task.score_texts([task.decode(text) for text in validation["source"]], references)
    assert copied["bleu"] < 0.1 and copied["rouge_l"] < 0.4  # 0.001 and 0.30, 0.07 and 0.36


def test_every_value_of_a_record_is_said():
    for row in make("mini_table2text", train_size=100).load(None).evaluation["validation"]:
        said = [part.split(" : ")[1] for part in row["source"].split(" | ")]
        assert 4 <= len(said) <= 6
        for text in row["references"]:
            assert set(said) <= set(text.replace(",", "").removesuffix(".").split())


def test_dialogues_have_four_to_eight_turns_of_two_people():
    turns = Counter()
    for row in make("mini_summary").load(None).train:
        speakers = [line.partition(": ")[0] for line in row["source"].split("\n")]
        assert (
            set(speakers[::2]) | set(speakers[1::2]) == set(speakers[:2])
            and len(set(speakers)) == 2
        )
        turns[len(speakers)] += 1
    assert set(turns) == {4, 5, 6, 7, 8} and min(turns.values()) > 200


def test_strata_are_tenths_by_the_length_of_the_target():
    task = make("mini_table2text")
    train = task.load(None).train
    strata = task.strata(train)
    assert len(set(strata)) == 10 and max(Counter(strata).values()) < 2 * len(train) / 10
    lengths = {stratum: [] for stratum in strata}
    for stratum, text in zip(strata, train["target"], strict=True):
        lengths[stratum].append(len(text))
    assert all(max(lengths[i]) < min(lengths[i + 1]) for i in range(9))
    assert len(stratified_sample(strata, 0.1, seed=0)) == 200
