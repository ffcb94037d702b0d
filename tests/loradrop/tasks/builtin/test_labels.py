"""The built-in tasks, their generator, and the built-in pretrained model."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import loradrop
from experiments.builtin_models.tiny_roberta.corpus import Corpus
from loradrop.tasks.builtin.labels import VALIDATION, Mini
from loradrop.tasks.builtin.language.grammar import Clause, Grammar, Phrase, Word
from loradrop.tasks.builtin.language.lexicon import NOUN_SETS, TRANSITIVE_SETS
from loradrop.tasks.builtin.language.meaning import alter, overlap, paraphrase, weaken
from loradrop.tasks.builtin.reviews import ADJECTIVES, ReviewGenerator

CONF = ROOT / "conf"
MODEL = Path(loradrop.__file__).parent / "assets" / "tiny_roberta"
NAMES = ("mini_acceptability", "mini_sentiment", "mini_entailment", "mini_similarity")


def make(name: str, **changes) -> Mini:
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / "task" / f"{name}.yaml"), changes))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def noun(word: str, category: str) -> Word:
    return next(
        Word(s, i)
        for s in NOUN_SETS[category]
        for i, forms in enumerate(s.words)
        if forms[0] == word
    )


def verb(word: str) -> Word:
    return next(
        Word(s, i) for s in TRANSITIVE_SETS for i, forms in enumerate(s.words) if forms[0] == word
    )


@pytest.fixture
def clause() -> Clause:
    kings = Phrase("the", noun("king", "man"), plural=True)
    return Clause(
        kings, verb("praise"), Phrase("a", noun("nun", "woman"), plural=False), tense="present"
    )


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_rows(name):
    small = {"train_size": 60, "validation_size": 30}
    first, again = make(name, **small).load(None), make(name, **small).load(None)
    other = make(name, **small, data_seed=1).load(None)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_shape_that_the_yaml_says(name):
    task = make(name)
    splits = task.load(None)
    rows = {"train": splits.train, **splits.evaluation}
    assert {split: len(some) for split, some in rows.items()} == {
        "train": task.train_size,
        VALIDATION: task.validation_size,
    }
    for some in rows.values():
        assert set(some.column_names) == {*task.columns, "label"}
        assert all(text.endswith(".") for column in task.columns for text in some[column])
    labels = splits.train["label"]
    if task.is_regression:
        assert min(labels) >= 0 and max(labels) <= 5 and 1.5 < sum(labels) / len(labels) < 3.5
    else:
        assert set(labels) == set(range(task.num_labels))
        assert all(0.45 < count / len(labels) < 0.55 for count in Counter(labels).values())


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_validation_occurs_in_train(name):
    task = make(name)
    splits = task.load(None)
    texts = [
        {row[column] for row in rows for column in task.columns}
        for rows in (splits.train, splits.evaluation[VALIDATION])
    ]
    assert not texts[0] & texts[1]


def test_half_of_the_polarity_words_are_new_in_validation():
    known, every = (
        {critic.word(ADJECTIVES[1]) for _ in range(3000)}
        for critic in (
            ReviewGenerator(random.Random(0), 0.3, common_only=True),
            ReviewGenerator(random.Random(0), 0.3),
        )
    )
    assert known < every
    assert len(known) < 0.65 * len(every)


def test_the_verb_agrees_with_its_subject_in_every_tense(clause):
    king = replace(clause, subject=replace(clause.subject, plural=False))
    assert str(clause) == "the kings praise a nun"
    assert str(king) == "the king praises a nun"
    assert str(replace(king, negated=True)) == "the king does not praise a nun"
    assert str(replace(clause, tense="perfect", negated=True)) == "the kings have not praised a nun"
    assert str(replace(clause, passive=True)) == "a nun is praised by the kings"


def test_paraphrases_keep_the_meaning_and_changes_do_not(clause):
    rng = random.Random(0)
    grammar = Grammar(rng)
    clauses = [grammar.clause() for _ in range(200)]
    assert all(overlap(c, paraphrase(c, rng)) == 1 for c in clauses)
    assert sum(overlap(c, grammar.clause()) for c in clauses) / 200 < 0.3
    assert all(str(alter(c, grammar)[0]) != str(c) for c in clauses)
    assert "not" in {word for _ in range(40) for word in str(alter(clause, grammar)[0]).split()}


def test_nothing_is_weakened_below_a_negation(clause):
    assert weaken(clause, random.Random(0)) is not None
    assert weaken(replace(clause, negated=True), random.Random(0)) is None


def test_conclusions_have_the_verdict():
    critic = ReviewGenerator(random.Random(0), 0.3)
    for verdict, wrong in ((1, "negative"), (-1, "positive")):
        conclusions = " ".join(critic.conclusion(verdict) for _ in range(300)).split()
        assert wrong not in conclusions
        assert not {s.words[0][0] for s in ADJECTIVES[-verdict]} & set(conclusions)


def test_tokenizer_gives_the_text_back(tokenizer):
    for text in islice(Corpus(seed=99), 100):
        ids = tokenizer(text[0])["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text[0]
        assert tokenizer.unk_token_id not in ids


def test_tokenizer_joins_pairs_as_roberta_does(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a king.", "a nun.")["input_ids"])
    assert tokens == ["<s>", "Ġa", "Ġking", ".", "</s>", "</s>", "Ġa", "Ġnun", ".", "</s>"]
    padded = tokenizer(["a king.", "a"], padding=True)
    assert padded["input_ids"][1][-1] == tokenizer.pad_token_id == 1
    assert padded["attention_mask"][1][-1] == 0
    assert (
        tokenizer("a king " * 100, truncation=True, max_length=16)["input_ids"][-1]
        == tokenizer.eos_token_id
    )


def test_model_is_small_and_a_classifier_takes_over_its_encoder():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 8e6
    pretrained = AutoModelForMaskedLM.from_pretrained(MODEL, dtype=torch.float32)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        MODEL, dtype=torch.float32, num_labels=3
    )
    assert pretrained.config.num_hidden_layers == 12
    for name, weight in classifier.roberta.state_dict().items():
        assert torch.equal(weight, pretrained.roberta.state_dict()[name])


@pytest.mark.slow
def test_masked_words_are_predicted_far_better_than_by_frequency(tokenizer):
    model = AutoModelForMaskedLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    torch.manual_seed(0)
    loss, hits, targets = 0.0, 0, []
    for text in islice(Corpus(seed=77), 150):
        ids = tokenizer(*text, return_tensors="pt")["input_ids"]
        chosen = (torch.rand(ids.shape) < 0.15) & (ids > 4)
        if not chosen.any():
            continue
        with torch.no_grad():
            logits = model(ids.masked_fill(chosen, tokenizer.mask_token_id)).logits[chosen]
        loss += float(torch.nn.functional.cross_entropy(logits, ids[chosen], reduction="sum"))
        hits += int((logits.argmax(-1) == ids[chosen]).sum())
        targets += ids[chosen].tolist()
    frequency = [count / len(targets) for count in Counter(targets).values()]
    unigram = -sum(p * math.log(p) for p in frequency)
    assert loss / len(targets) < 0.6 * unigram
    assert hits / len(targets) > 3 * max(frequency)
