"""Built-in tasks in the form of GLUE's. A grammar generates them from a fixed seed: no download.

Each task has a maker that draws one row. Half the words of praise and blame never occur in
mini_sentiment's training rows, so a model needs what it learned about words in pretraining. Some
labels are wrong, as annotators make mistakes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from loradrop.tasks.base import LABEL, TRAIN, LabelTask, Splits
from loradrop.tasks.builtin.language.grammar import (
    PERFECT,
    PRESENT,
    PRONOUNS,
    Clause,
    Grammar,
    Phrase,
    verb_group,
)
from loradrop.tasks.builtin.language.meaning import FALSE, alter, overlap, paraphrase, vary, weaken
from loradrop.tasks.builtin.reviews import ReviewGenerator

VALIDATION = "validation"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mini(LabelTask):
    """A generated task; `name` picks the maker.

    Args:
        train_size: The number of training rows.
        validation_size: The number of validation rows.
        data_seed: The seed of the rows.
        label_noise: The share of rows whose class is drawn at random, or the standard deviation of
            the score's error.
    """

    train_size: int
    validation_size: int
    data_seed: int
    label_noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generated(self.name, MAKERS, self.train_size, self.validation_size)
        most = math.inf if self.is_regression else 1
        if not 0 <= self.label_noise <= most:
            limits = "must not be negative" if self.is_regression else "must lie in [0, 1]"
            raise ValueError(f"label_noise {limits}, got {self.label_noise}")

    def load(self, data: Path | None) -> Splits:
        """Generate both splits. No text of one occurs in the other."""
        rng = random.Random(f"{self.name} {self.data_seed}")
        seen: set[str] = set()
        rows = {}
        for split, size in ((TRAIN, self.train_size), (VALIDATION, self.validation_size)):
            rows[split] = self._rows(MAKERS[self.name](rng, split), size, rng, seen)
            seen |= {row[column] for row in rows[split] for column in self.columns}
        splits = {split: Dataset.from_list(some) for split, some in rows.items()}
        return Splits(splits[TRAIN], {VALIDATION: splits[VALIDATION]})

    def _rows(
        self, make: Callable[[], Row | None], size: int, rng: random.Random, seen: set[str]
    ) -> list[Row]:
        """Draw `size` rows with equal shares of the classes and no text twice or in `seen`."""
        rows: list[Row] = []
        texts, counts = set(seen), dict.fromkeys(range(self.num_labels), 0)
        while len(rows) < size:
            row = make()
            if row is None or any(row[column] in texts for column in self.columns):
                continue
            if not self.is_regression:
                if counts[row[LABEL]] >= (size + self.num_labels - 1) // self.num_labels:
                    continue
                counts[row[LABEL]] += 1
            texts |= {row[column] for column in self.columns}
            rows.append(row)
        return [{**row, LABEL: self._annotate(row[LABEL], rng)} for row in rows]

    def _annotate(self, label: float, rng: random.Random) -> float:
        """Return the label as an annotator who makes mistakes would give it."""
        if self.is_regression:
            return round(min(5.0, max(0.0, label + rng.gauss(0, self.label_noise))), 1)
        return rng.randrange(self.num_labels) if rng.random() < self.label_noise else label


def check_generated(name: str, known: Iterable[str], *sizes: int) -> None:
    """Raise ValueError if a generated task has no maker, or a split no rows."""
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got '{name}'")
    for key, size in zip(("train_size", "validation_size"), sizes, strict=True):
        if size < 1:
            raise ValueError(f"{key} must be at least 1, got {size}")


def acceptability(rng: random.Random, split: str) -> Callable[[], Row | None]:
    """Like CoLA: whether the sentence is grammatical."""
    grammar = Grammar(rng, 0.35)

    def make() -> Row | None:
        clause = grammar.clause()
        label = rng.randrange(2)
        text = str(clause) if label else rng.choice(ERRORS)(clause, grammar)
        return {"sentence": f"{text}.", LABEL: label} if text else None

    return make


def sentiment(rng: random.Random, split: str) -> Callable[[], Row | None]:
    """Like SST-2: whether the opinion is positive.

    Negation and contrast decide as often as the words do.
    """
    critic = ReviewGenerator(rng, twist=0.3, common_only=split == TRAIN)

    def make() -> Row | None:
        label = rng.randrange(2)
        return {"sentence": f"{critic.review(2 * label - 1)}.", LABEL: label}

    return make


def entailment(rng: random.Random, split: str) -> Callable[[], Row | None]:
    """Like RTE: whether the second sentence follows. Class 0 is entailment, as in GLUE."""
    grammar = Grammar(rng, 0.15)

    def make() -> Row | None:
        premise, label = grammar.clause(), rng.randrange(2)
        hypothesis = premise
        if rng.random() < 0.5:
            hypothesis = weaken(hypothesis, rng) or hypothesis
        if label:
            hypothesis, truth = alter(hypothesis, grammar)
            if truth != FALSE and rng.random() < 0.5:
                return None  # or contradictions would be rare
        return pair(premise, paraphrase(hypothesis, rng, 0.3), label)

    return make


def similarity(rng: random.Random, split: str) -> Callable[[], Row | None]:
    """Like STS-B: how much of the meaning is shared, from 0 to 5."""
    grammar = Grammar(rng, 0.3)

    def make() -> Row | None:
        clause = grammar.clause()
        if clause.holder:
            return None
        other = vary(clause, grammar, rng.random())
        return pair(clause, paraphrase(other, rng), 5 * overlap(clause, other))

    return make


def pair(one: Clause, other: Clause, label: float) -> Row | None:
    first, second = f"{one}.", f"{other}."
    return {"sentence1": first, "sentence2": second, LABEL: label} if first != second else None


def wrong_agreement(clause: Clause, grammar: Grammar) -> str | None:
    """Put the finite verb into the number that its subject does not have."""
    inflected = clause.tense in (PRESENT, PERFECT) or clause.is_copula
    if not inflected or clause.reflexive:
        return None
    clause = replace(clause, passive=False, fronted=False)
    return f"{clause.subject} {clause.predicate(not clause.subject.plural)}"


def wrong_determiner(clause: Clause, grammar: Grammar) -> str | None:
    """`a dogs`, `these dog`."""
    name = "object" if clause.object and grammar.chance(0.5) else "subject"
    phrase: Phrase = getattr(clause, name)
    determiner = grammar.rng.choice(
        ("these", "those", "two", "many") if not phrase.plural else ("a", "this", "that")
    )
    if phrase.noun.form(0) == phrase.noun.form(1):
        return None
    return str(clause.with_part(name, replace(phrase, determiner=determiner)))


def wrong_order(clause: Clause, grammar: Grammar) -> str | None:
    """Swap two neighbouring words."""
    words = str(clause).split()
    place = grammar.rng.randrange(len(words) - 1)
    if words[place][-1] == ",":
        return None
    words[place : place + 2] = words[place + 1], words[place]
    return " ".join(words)


def wrong_objects(clause: Clause, grammar: Grammar) -> str | None:
    """Add an object to a verb that takes none, or remove the object of a verb that needs one."""
    if clause.is_copula or clause.reflexive:
        return None
    if clause.object:
        return str(replace(clause, object=None))
    return str(replace(clause, object=grammar.phrase("being", simple=True)))


def wrong_form(clause: Clause, grammar: Grammar) -> str | None:
    """`has write`, `did not wrote`."""
    if clause.is_copula or clause.passive or not (clause.negated or clause.tense == PERFECT):
        return None
    right = verb_group(
        clause.verb, clause.tense, clause.subject.plural, clause.negated, False, False
    )
    *auxiliaries, form = right.split()
    wrong = clause.verb.form(0 if clause.tense == PERFECT else 1)
    return None if wrong == form else str(clause).replace(right, " ".join([*auxiliaries, wrong]))


def wrong_reflexive(clause: Clause, grammar: Grammar) -> str | None:
    """`the queen praised himself`."""
    if not clause.reflexive:
        return None
    right = (
        "themselves" if clause.subject.plural else PRONOUNS[clause.subject.noun.synset.category][2]
    )
    wrong = grammar.rng.choice(
        [word for word in ("himself", "herself", "themselves") if word != right]
    )
    return str(clause).replace(right, wrong)


def wrong_roles(clause: Clause, grammar: Grammar) -> str | None:
    """Let a thing do what only a person can do."""
    if not clause.object or clause.verb.synset.object_class in ("person", "being", "creature"):
        return None
    return str(replace(clause, subject=clause.object, object=clause.subject))


ERRORS = (
    wrong_agreement,
    wrong_agreement,
    wrong_determiner,
    wrong_order,
    wrong_order,
    wrong_objects,
    wrong_form,
    wrong_reflexive,
    wrong_roles,
)
MAKERS = {
    "mini_acceptability": acceptability,
    "mini_sentiment": sentiment,
    "mini_entailment": entailment,
    "mini_similarity": similarity,
}
