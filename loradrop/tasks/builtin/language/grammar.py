"""A small English whose sentences have a meaning.

`Grammar(random.Random(seed)).clause()` draws a sentence and `str(...)` is its text. Clauses agree
in number, select their subjects and objects, and can be negated, passive, or somebody's belief.
meaning.py has the changes that keep or alter a clause's meaning. The built-in tasks and the text on
which tiny_roberta is pretrained come from here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.lexicon import Synset

PRESENT, PAST, PERFECT = "present", "past", "perfect"
PRONOUNS = {"man": ("he", "him", "himself"), "woman": ("she", "her", "herself")}
SINGULAR_DETERMINERS = ("the", "the", "the", "a", "a", "this", "that")
PLURAL_DETERMINERS = ("the", "the", "the", "some", "these", "those", "two", "three", "many")
# to know implies what is known; to claim does not imply what is claimed
BELIEFS = (
    ("know", "knew"),
    ("see", "saw"),
    ("regret", "regretted"),
    ("remember", "remembered"),
)
DOUBTS = (
    ("claim", "claimed"),
    ("think", "thought"),
    ("hope", "hoped"),
    ("pretend", "pretended"),
)


class Word(NamedTuple):
    """A member of a synonym set."""

    synset: Synset
    position: int  # in the set

    def form(self, number: int = 0) -> str:
        return self.synset.words[self.position][number]


@dataclass(frozen=True)
class Phrase:
    """A noun phrase.

    `link` and `inner` form a prepositional phrase; `clause` is a relative clause without a subject.
    """

    determiner: str
    noun: Word
    plural: bool
    adjectives: tuple[Word, ...] = ()
    link: str | None = None
    inner: Phrase | Word | None = None
    clause: Clause | None = None

    def __str__(self) -> str:
        words = [*(word.form() for word in self.adjectives), self.noun.form(int(self.plural))]
        words.insert(0, article(words[0]) if self.determiner == "a" else self.determiner)
        if self.link and self.inner:
            words += [
                self.link,
                f"the {self.inner.form()}" if isinstance(self.inner, Word) else str(self.inner),
            ]
        if self.clause:
            words += ["who" if is_person(self.noun) else "that", self.clause.predicate(self.plural)]
        return " ".join(words)


@dataclass(frozen=True)
class Clause:
    """A sentence. `verb` is a verb, or an adjective after a form of `be`."""

    subject: Phrase
    verb: Word
    object: Phrase | None = None
    reflexive: bool = False
    tense: str = PAST
    negated: bool = False
    manner: Word | None = None
    place: Word | None = None
    time: Word | None = None
    passive: bool = False
    fronted: bool = False  # the time first
    holder: tuple[Phrase, tuple[str, str]] | None = (
        None  # whose belief it is, and the verb of belief
    )

    def with_part(self, name: str, value: Phrase | Word | None) -> Clause:
        """The same clause with another value of the field `name`."""
        change: dict[str, Any] = {name: value}
        return replace(self, **change)

    @property
    def is_copula(self) -> bool:
        return len(self.verb.synset.words[0]) == 1

    def predicate(self, plural: bool) -> str:
        """Return the verb phrase of an active clause, agreeing with the given number."""
        words = [verb_group(self.verb, self.tense, plural, self.negated, self.is_copula, False)]
        if self.object:
            words.append(str(self.object))
        if self.reflexive:
            words.append(
                "themselves"
                if plural
                else PRONOUNS.get(self.subject.noun.synset.category, ("", "", "itself"))[2]
            )
        return " ".join(words + self.adjuncts())

    def adjuncts(self) -> list[str]:
        return [
            *([self.manner.form()] if self.manner else []),
            *([f"{preposition(self.place)} the {self.place.form()}"] if self.place else []),
            *([self.time.form()] if self.time and not self.fronted else []),
        ]

    def __str__(self) -> str:
        if self.passive and self.object:
            verb = verb_group(self.verb, self.tense, self.object.plural, self.negated, False, True)
            words = [str(self.object), verb, "by", str(self.subject), *self.adjuncts()]
        else:
            words = [str(self.subject), self.predicate(self.subject.plural)]
        if self.time and self.fronted:
            words.insert(0, self.time.form() + ",")
        if self.holder:
            holder, forms = self.holder
            words = [str(holder), forms[1], "that", *words]
        return " ".join(words)


def article(following: str) -> str:
    vowel = (
        following[0] in "aeio"
        or following.startswith("hon")
        or (following[0] == "u" and following[:3] != "use")
    )
    return "an" if vowel else "a"


def is_person(noun: Word) -> bool:
    return noun.synset.category in lex.CLASS_CATEGORIES["person"]


def preposition(place: Word) -> str:
    word = place.form()
    if word in {
        "station",
        "port",
        "harbour",
        "school",
        "lake",
        "pond",
        "river",
        "stream",
        "bridge",
    }:
        return "at"
    return (
        "on"
        if word
        in {"island", "beach", "shore", "mountain", "hill", "farm", "road", "street", "square"}
        else "in"
    )


def verb_group(
    verb: Word, tense: str, plural: bool, negated: bool, copula: bool, passive: bool
) -> str:
    """Return the finite verb with its auxiliaries and negation."""
    no = ["not"] if negated else []
    have = "have" if plural else "has"
    if copula or passive:
        rest = verb.form(2 if passive else 0)
        if tense == PERFECT:
            return " ".join([have, *no, "been", rest])
        be = {
            (PAST, True): "were",
            (PAST, False): "was",
            (PRESENT, True): "are",
            (PRESENT, False): "is",
        }[tense, plural]
        return " ".join([be, *no, rest])
    if tense == PERFECT:
        return " ".join([have, *no, verb.form(2)])
    if negated:
        do = "did" if tense == PAST else "do" if plural else "does"
        return f"{do} not {verb.form()}"
    if tense == PAST:
        return verb.form(1)
    return verb.form() if plural else lex.plural(verb.form())


class Grammar:
    """Draw phrases and clauses. `richness` (0 to 1) is how often they have optional parts."""

    def __init__(self, rng: random.Random, richness: float = 0.35) -> None:
        self.rng = rng
        self.richness = richness

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def word(self, synsets: list[Synset] | tuple[Synset, ...]) -> Word:
        synset = self.rng.choice(synsets)
        return Word(synset, self.rng.randrange(len(synset.words)))

    def noun(self, noun_class: str) -> Word:
        category = self.rng.choice(lex.CLASS_CATEGORIES[noun_class])
        if self.chance(0.08):
            return self.word([lex.HYPERNYM_SETS[category]])
        return self.word(lex.NOUN_SETS[category])

    def adjective(self, noun: Word) -> Word:
        return self.word(lex.ADJECTIVE_SETS[adjective_class(noun)])

    def phrase(self, noun_class: str, simple: bool = False) -> Phrase:
        """Draw a noun phrase whose noun belongs to a class of the lexicon."""
        noun, plural = self.noun(noun_class), self.chance(0.35)
        determiner = self.rng.choice(PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS)
        phrase = Phrase(determiner, noun, plural)
        if self.chance(self.richness):
            phrase = replace(phrase, adjectives=(self.adjective(noun),))
        if simple or self.chance(1 - self.richness / 2):
            return phrase
        if self.chance(0.4):
            return replace(phrase, clause=self.relative(phrase))
        if is_person(noun) and self.chance(0.5):
            return replace(
                phrase, link="with", inner=Phrase("the", self.noun("carried"), self.chance(0.4))
            )
        return replace(phrase, link="from", inner=self.word(lex.PLACE_SETS))

    def relative(self, phrase: Phrase) -> Clause:
        clause = self.bare_clause("person" if is_person(phrase.noun) else None, phrase)
        return (
            clause if clause.is_copula else replace(clause, tense=self.rng.choice((PRESENT, PAST)))
        )

    def bare_clause(
        self, subject_class: str | None = None, subject: Phrase | None = None
    ) -> Clause:
        """Draw a clause without adjuncts. With a given subject it is short and fits the subject."""
        if subject and (subject_class is None or self.chance(0.4)):
            return Clause(
                subject, self.adjective(subject.noun), tense=self.rng.choice((PRESENT, PAST))
            )
        short, draw = subject is not None, self.rng.random()
        if draw < 0.6:
            verb = self.word(lex.TRANSITIVE_SETS)
            objects = verb.synset.object_class
            subject = subject or self.phrase(verb.synset.category)
            if (
                objects == "person"
                and subject.noun.synset.category in PRONOUNS
                and self.chance(0.12)
            ):
                return Clause(subject, verb, reflexive=True)
            return Clause(subject, verb, self.phrase(objects, simple=short))
        if draw < 0.82:
            verb = self.word(lex.INTRANSITIVE_SETS)
            return Clause(subject or self.phrase(verb.synset.category), verb)
        subject = subject or self.phrase(self.rng.choice(("person", "creature", "ware")))
        taken = {word.synset for word in subject.adjectives}
        return Clause(
            subject,
            self.word(
                [s for s in lex.ADJECTIVE_SETS[adjective_class(subject.noun)] if s not in taken]
            ),
        )

    def clause(self) -> Clause:
        """Draw a whole sentence."""
        clause = self.bare_clause()
        tense = self.rng.choice((PRESENT, PAST, PAST, PERFECT))
        clause = replace(clause, tense=tense, negated=self.chance(0.2))
        if not clause.is_copula:
            manner = self.word(lex.MANNER_SETS) if self.chance(self.richness * 0.6) else None
            place = self.word(lex.PLACE_SETS) if self.chance(self.richness) else None
            clause = replace(clause, manner=manner, place=place)
        if self.chance(self.richness * 0.7):
            clause = replace(clause, time=self.word(lex.TIME_SETS), fronted=self.chance(0.4))
        if clause.object and self.chance(0.2):
            clause = replace(clause, passive=True)
        if self.chance(self.richness * 0.25):
            forms = self.rng.choice(BELIEFS if self.chance(0.5) else DOUBTS)
            clause = replace(clause, holder=(self.phrase("person", simple=True), forms))
        return clause


def adjective_class(noun: Word) -> str:
    for noun_class in ("person", "creature"):
        if noun.synset.category in lex.CLASS_CATEGORIES[noun_class]:
            return noun_class
    return "thing"
