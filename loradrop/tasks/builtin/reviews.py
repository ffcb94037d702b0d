"""Opinions on films, books and the like, whose verdict negation and contrast can reverse."""

from __future__ import annotations

import random

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import Word, article
from loradrop.tasks.builtin.language.lexicon import Synset, synsets

ADJECTIVES = {1: synsets(lex.POSITIVE), -1: synsets(lex.NEGATIVE)}
ATTITUDES = {1: synsets(lex.LIKES), -1: synsets(lex.DISLIKES)}
EFFECTS = {1: synsets(lex.PLEASED), -1: synsets(lex.ANNOYED)}
WORKS = [(synsets(work)[0], synsets(parts)) for work, parts in lex.WORKS.items()]
INTENSIFIERS = ("very", "really", "truly", "extremely", "quite", "so")
REVERSERS = ("not", "never", "hardly", "anything but", "far from", "by no means")


class ReviewGenerator:
    """Draw opinions.

    Args:
        rng: The source of all random choices.
        twist: How often a statement or a contrast reverses the verdict of its words.
        common_only: Leave out half the words of each synonym set of praise or blame.
    """

    def __init__(self, rng: random.Random, twist: float, common_only: bool = False) -> None:
        self.rng, self.twist, self.common_only = rng, twist, common_only
        self.work, self.parts = WORKS[0]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def word(self, pool: list[Synset]) -> str:
        synset = self.rng.choice(pool)
        size = len(synset.words)
        return Word(
            synset, self.rng.randrange((size + 1) // 2 if self.common_only else size)
        ).form()

    def thing(self) -> str:
        """Return a part of the work under review, or the work."""
        synset = self.work if self.chance(0.25) else self.rng.choice(self.parts)
        return self.rng.choice(synset.words)[0]

    def quality(self, verdict: int) -> str:
        """Return what follows `is`: an adjective, or the opposite one reversed."""
        if self.chance(self.twist):
            return f"{self.rng.choice(REVERSERS)} {self.word(ADJECTIVES[-verdict])}"
        adjective = self.word(ADJECTIVES[verdict])
        return f"{self.rng.choice(INTENSIFIERS)} {adjective}" if self.chance(0.4) else adjective

    def statement(self, verdict: int, draw: float | None = None) -> str:
        """Return a clause with this verdict. `draw` picks its form; below 0.9 it is simple."""
        thing, draw = self.thing(), self.rng.random() if draw is None else draw
        if draw < 0.45:
            return f"the {thing} {self.rng.choice(('is', 'was'))} {self.quality(verdict)}"
        if draw < 0.6:
            if self.chance(self.twist):
                return f"i never {self.word(ATTITUDES[-verdict])} the {thing}"
            return f"i {self.word(ATTITUDES[verdict])} the {thing}"
        if draw < 0.75:
            if self.chance(self.twist):
                return f"the {thing} never {self.word(EFFECTS[-verdict])} me"
            return f"the {thing} {self.word(EFFECTS[verdict])} me"
        if draw < 0.9 or not self.chance(2 * self.twist):
            first, second = (self.word(ADJECTIVES[verdict]) for _ in range(2))
            return f"the {thing} was {first} and {second}"
        if draw < 0.95:
            return f"nobody could call the {thing} {self.word(ADJECTIVES[-verdict])}"
        feared = self.word(ADJECTIVES[-verdict])
        return f"i expected {article(feared)} {feared} {thing}, but it was {self.quality(verdict)}"

    def simple(self, verdict: int) -> str:
        return self.statement(verdict, self.rng.uniform(0, 0.9))

    def review(self, verdict: int) -> str:
        """Return one sentence with this verdict. In a contrast the main clause decides."""
        self.work, self.parts = self.rng.choice(WORKS)
        if self.chance(0.5):
            return self.statement(verdict)
        main = self.simple(verdict)
        if not self.chance(1.5 * self.twist):
            return f"{main}, and {self.simple(verdict)}"
        other = self.simple(-verdict)
        return self.rng.choice(
            (f"{other}, but {main}", f"although {other}, {main}", f"{main}, although {other}")
        )

    def column(self, verdict: int) -> str:
        """Return a longer opinion without reversals: words of one verdict side by side."""
        self.work, self.parts = self.rng.choice(WORKS)
        words = [self.word(ADJECTIVES[verdict]) for _ in range(5)]
        first, second = (self.thing() for _ in range(2))
        attitude = f"i {self.word(ATTITUDES[verdict])} it, and it {self.word(EFFECTS[verdict])} me"
        return (
            f"the {first} is {words[0]}, {words[1]} and {words[2]}, "
            f"the {second} is {words[3]} and {words[4]}, {attitude}"
        )

    def conclusion(self, verdict: int) -> str:
        """Return a sentence that sums up a review of the work last reviewed."""
        work, draw = self.work.words[0][0], self.rng.random()
        if draw < 0.3:
            first, second = (self.word(ADJECTIVES[verdict]) for _ in range(2))
            return f"in short, the {work} is {first} and {second}"
        if draw < 0.4:
            return f"so i {self.word(ATTITUDES[verdict])} it"
        if draw < 0.9:
            return f"my verdict on the {work} is {'positive' if verdict > 0 else 'negative'}"
        return f"it {'deserves' if verdict > 0 else 'does not deserve'} a prize"
