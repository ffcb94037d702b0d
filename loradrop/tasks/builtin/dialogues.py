"""Dialogues in which one person asks and the other answers, with summaries: mini_summary."""

from __future__ import annotations

import random

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import article
from loradrop.tasks.builtin.records import COLOURS, DAYS, people, places, things

TURNS = (4, 8)  # fewest and most
GREETINGS = ("hello.", "good morning.", "good evening.", "how are you?", "it is good to see you.")
SMALL_TALK = (
    "i am tired.",
    "the weather is fine.",
    "i have no time.",
    "that is nice.",
    "i am hungry.",
    "you are right.",
)
DELAY = ("let me think.", "please tell me.")


class DialogueGenerator:
    """Draw dialogues. A call returns one, a line for each turn, and three summaries."""

    def __init__(self, rng: random.Random, training: bool) -> None:
        self.rng = rng
        self.things, self.people, self.places = things(training), people(training), places(training)
        self.verbs = [
            synset.words[0][0] for synset in lex.INTRANSITIVE_SETS if synset.category == "person"
        ]

    def __call__(self) -> tuple[str, list[str]]:
        asks, answers, other = self.rng.sample(self.people, 3)
        question, answer, fact = self.exchange(answers, other)
        core = [question, *(DELAY if self.rng.random() < 0.3 else ()), answer]
        extra = self.rng.randint(*TURNS) - len(core)
        before = self.rng.randint(min(1, extra), max(0, extra))
        fillers = [self.filler() for _ in range(extra - before)]
        opening = [self.rng.choice(GREETINGS), *(self.filler() for _ in range(before - 1))][:before]
        turns = [*opening, *core, *fillers]
        # the two take turns, and the question is of the one who asks
        speakers = [(asks, answers)[(number - before) % 2] for number in range(len(turns))]
        dialogue = "\n".join(
            f"{speaker}: {turn}" for speaker, turn in zip(speakers, turns, strict=True)
        )
        return dialogue, [
            f"the {answers} says that {fact}.",
            f"the {answers} tells the {asks} that {fact}.",
            f"according to the {answers}, {fact}.",
        ]

    def exchange(self, answers: str, other: str) -> tuple[str, str, str]:
        """Return a question, its answer, and the fact in the words of a third person."""
        choose = self.rng.choice
        thing, place, day, colour, verb = (
            choose(x) for x in (self.things, self.places, DAYS, COLOURS, self.verbs)
        )
        goods = f"{article(colour)} {colour} {thing}"
        return choose(
            (
                (
                    f"where is my {thing}?",
                    f"it is near the {place}.",
                    f"the {thing} is near the {place}",
                ),
                (f"who has my {thing}?", f"the {other} has it.", f"the {other} has the {thing}"),
                (
                    f"when will you {verb}?",
                    f"on {day}, near the {place}.",
                    f"they will {verb} on {day} near the {place}",
                ),
                (
                    f"what did you buy from the {other}?",
                    f"{goods}.",
                    f"they bought {goods} from the {other}",
                ),
            )
        )

    def filler(self) -> str:
        """Return an unrelated turn: small talk, or a fact about another thing."""
        if self.rng.random() < 0.4:
            return self.rng.choice(SMALL_TALK)
        thing, place, person = (
            self.rng.choice(pool) for pool in (self.things, self.places, self.people)
        )
        return self.rng.choice(
            (
                f"my {thing} is near the {place}.",
                f"the {person} has {article(thing)} {thing}.",
                f"the {person} will come on {self.rng.choice(DAYS)}.",
                f"i saw the {person} near the {place}.",
            )
        )
