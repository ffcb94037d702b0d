"""Text for pretraining a small causal model: sentences, and texts that rephrase their first half.

Lists of attributes, notes and questions about them, and conversations teach copying and rephrasing.
The prompts of the built-in generation tasks, and their answers, do not occur.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from experiments.builtin_models.tiny_roberta.corpus import Corpus as Sentences
from loradrop.tasks.builtin.dialogues import DialogueGenerator
from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import article
from loradrop.tasks.builtin.records import AGES, COLOURS, DAYS, PRICES, people, places, things

DOERS = {  # the name of a person in a list -> what they did
    "finder": ("found", "discovered", "spotted"),
    "buyer": ("bought", "purchased"),
    "owner": ("has", "owns", "holds"),
    "maker": ("made", "built"),
    "painter": ("painted", "drew"),
    "bearer": ("carried", "brought"),
    "loser": ("lost", "forgot"),
    "keeper": ("keeps", "hides"),
    "lender": ("lends", "lent"),
}
SIZES = ("big", "small", "huge", "tiny")
PREPOSITIONS = ("near", "behind", "in front of", "far from")
MARKS = ((" | ", " : "), (" | ", ": "), (", ", " : "), ("; ", ": "), ("\n", ": "), (" / ", " = "))
AGAIN = ("again: ", "once more: ", "the same words: ", "repeat: ")
COMMON = (  # single common words
    "the {thing} is for sale.",
    "the {person} offers it.",
    "you can see the {thing} from here.",
    "according to the map, the {place} is far.",
    "the {person} tells a story.",
    "the {person} says no.",
    "the {person} sells nothing.",
    "this can be bought.",
    "is the {person} a seller? yes.",
)


class Corpus:
    """An endless stream of texts; the same seed gives the same stream."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"tiny_llama {seed}")
        self.sentences = iter(Sentences(seed))
        self.talk = DialogueGenerator(self.rng, training=False)
        self.pools = {"thing": things(False), "person": people(False), "place": places(False)}
        self.adjectives = {"size": SIZES, "price": PRICES, "age": AGES, "colour": COLOURS}
        nouns = [
            word[0] for sets in lex.NOUN_SETS.values() for synset in sets for word in synset.words
        ]
        self.words = [
            *nouns,
            *(synset.words[0][0] for sets in lex.ADJECTIVE_SETS.values() for synset in sets),
            *DAYS,
        ]
        self.kinds = {
            self.plain: 25,
            self.copy: 30,
            self.lookup: 10,
            self.note: 25,
            self.chat: 16,
            self.common: 4,
        }

    def __iter__(self) -> Iterator[str]:
        while True:
            (kind,) = self.rng.choices(list(self.kinds), list(self.kinds.values()))
            yield kind()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, kind: str) -> str:
        return self.rng.choice(self.pools[kind])

    def plain(self) -> str:
        return "\n".join(next(self.sentences))

    def common(self) -> str:
        line = self.rng.choice(COMMON)
        return line.format(**{kind: self.pick(kind) for kind in self.pools})

    def copy(self) -> str:
        """Random words, repeated two to five times; repetitions teach copying much sooner."""
        words = self.rng.choice((" ", ", ")).join(
            self.rng.choice(self.words) for _ in range(self.rng.randint(4, 9))
        )
        return f"\n{self.rng.choice(('', '', *AGAIN))}".join([words] * self.rng.randint(2, 5))

    def record(self) -> dict[str, str]:
        """A thing, somebody who did something with it, and two to four attributes."""
        optional = self.rng.sample(("place", "day", *self.adjectives), self.rng.randint(2, 4))
        drawn = {"thing": self.pick("thing"), self.rng.choice(list(DOERS)): self.pick("person")}
        for name in optional:
            drawn[name] = self.rng.choice(self.pools.get(name) or self.adjectives.get(name) or DAYS)
        names = self.rng.sample(list(drawn), len(drawn))
        return {name: drawn[name] for name in names}

    def listed(self, record: dict[str, str]) -> str:
        between, behind = self.rng.choice(MARKS)
        return between.join(f"{name}{behind}{value}" for name, value in record.items())

    def lookup(self) -> str:
        """A list, and the values of some of its names."""
        record = self.record()
        asked = self.rng.sample(list(record), self.rng.randint(2, len(record)))
        answers = [
            f"the {name} is {record[name]}" if self.chance(0.5) else f"{name}? {record[name]}"
            for name in asked
        ]
        return f"{self.listed(record)}\n{'. '.join(answers)}."

    def note(self) -> str:
        """A list and sentences that say the same, in either order."""
        record = self.record()
        parts = [self.listed(record), " ".join(self.told(record))]
        return "\n".join(parts if self.chance(0.8) else parts[::-1])

    def told(self, record: dict[str, str]) -> list[str]:
        """Sentences that say everything in a record: what was done, then other attributes."""
        (doer,) = (name for name in record if name in DOERS)
        said = [name for name in record if self.chance(0.85)]
        adjectives = [record[name] for name in self.adjectives if name in said and name in record]
        words = [*adjectives, record["thing"]]
        thing = " ".join([article(words[0]), *words])
        place = f" {self.rng.choice(PREPOSITIONS)} the {record['place']}" if "place" in said else ""
        day = f"on {record['day']}" if "day" in said else ""
        start, end = (
            (f"{day}, ", "") if day and self.chance(0.5) else ("", f" {day}" if day else "")
        )
        verb = self.rng.choice(DOERS[doer])
        first = f"{start}the {record[doer]} {verb} {thing}{place}{end}."
        if self.chance(0.2):
            first = f"{start}there was {thing}{place}{end}, and the {record[doer]} {verb} it."
        rest = [name for name in record if name not in (*said, "thing", doer)]
        return [first, *(self.remark(name, record[name]) for name in rest)]

    def remark(self, name: str, value: str) -> str:
        if name == "place":
            return f"it is {self.rng.choice(PREPOSITIONS)} the {value}."
        return (
            f"that was on {value}."
            if name == "day"
            else self.rng.choice((f"it is {value}.", f"the {name} is {value}."))
        )

    def chat(self) -> str:
        """A conversation, then what the asker has learnt, or who asked or answered."""
        asks, answers, other = self.rng.sample(self.talk.people, 3)
        question, answer, fact = self.talk.exchange(answers, other)
        turns = [question, answer]
        speakers = [asks, answers]
        for _ in range(self.rng.randint(0, 2)):
            turns, speakers = (
                [self.talk.filler(), *turns],
                [answers if speakers[0] == asks else asks, *speakers],
            )
        for _ in range(self.rng.randint(0, 2)):
            turns, speakers = (
                [*turns, self.talk.filler()],
                [*speakers, answers if speakers[-1] == asks else asks],
            )
        lines = [f"{speaker}: {turn}" for speaker, turn in zip(speakers, turns, strict=True)]
        ends = (
            f"in fact, {fact}.",
            f"now the {asks} knows that {fact}.",
            f"who answered? the {answers}. so {fact}.",
        )
        who = (
            f"who asked? the {asks}.",
            f"who answered? the {answers}.",
            f"the {asks} asked the {answers}.",
        )
        return "\n".join([*lines, self.rng.choice(ends if self.chance(0.8) else who)])
