"""Text for pretraining: related sentences that help to predict each other's masked words.

A text has one or two segments. Paraphrases, consequences, contradictions, questions with answers,
and opinions with conclusions teach synonymy, antonymy, negation and polarity. Words that state how
two sentences are related (SALIENT) are masked more often than others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import PRONOUNS, Clause, Grammar
from loradrop.tasks.builtin.language.meaning import FALSE, alter, overlap, paraphrase, vary, weaken
from loradrop.tasks.builtin.reviews import ADJECTIVES, ReviewGenerator

SAME, SO = ("namely", "indeed"), ("hence", "therefore")
RELATED = ((0.75, "equally"), (0.45, "similarly"), (0.0, "elsewhere"))  # from this overlap on
DEFINITIONS = ("{0} means {1}", "{0} is another word for {1}")
# truth -> the answer to a question, and the word in a judgement
ANSWERS = {True: ("yes", "true"), False: ("no", "false"), None: ("perhaps", "doubtful")}
SALIENT = (
    *SAME,
    *SO,
    *(word for _, word in RELATED),
    *sum(ANSWERS.values(), ()),
    "positive",
    "negative",
    "opposite",
    "means",
)


class Corpus:
    """An endless stream of texts; the same seed gives the same stream."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.grammar = Grammar(self.rng)
        self.critic = ReviewGenerator(self.rng, twist=0.2)
        self.kinds = {
            self.column: 14,
            self.review: 24,
            self.claims: 18,
            self.question: 14,
            self.judgement: 8,
            self.consequence: 5,
            self.paraphrase: 5,
            self.related: 8,
            self.definition: 2,
            self.story: 2,
        }

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            (kind,) = self.rng.choices(list(self.kinds), list(self.kinds.values()))
            yield self.segments(*kind())

    def segments(self, first: str, second: str) -> list[str]:
        """Make half of the texts pairs of segments, as in tasks on pairs, and join the others."""
        first, second = (part if part[-1] in ".?" else part + "." for part in (first, second))
        return [first, second] if self.rng.random() < 0.5 else [f"{first} {second}"]

    def clause(self) -> Clause:
        self.grammar.richness = self.rng.uniform(0.0, 0.45)
        return self.grammar.clause()

    def implied(self, clause: Clause) -> Clause:
        return paraphrase(weaken(clause, self.rng) or clause, self.rng, 0.4)

    def claim(self, clause: Clause) -> tuple[Clause, bool | None]:
        """Another statement about a clause, and whether it is true (None: undecided)."""
        if self.rng.random() < 0.4:
            return self.implied(clause), True
        other, truth = alter(clause, self.grammar)
        return paraphrase(other, self.rng, 0.3), False if truth == FALSE else None

    def paraphrase(self) -> tuple[str, str]:
        clause = self.clause()
        return str(clause), f"{self.rng.choice(SAME)}, {paraphrase(clause, self.rng, 0.8)}"

    def consequence(self) -> tuple[str, str]:
        clause = self.clause()
        return str(clause), f"{self.rng.choice(SO)}, {self.implied(clause)}"

    def question(self) -> tuple[str, str]:
        clause = self.clause()
        asked, truth = self.claim(clause)
        return str(clause), f"is it so that {asked}? {ANSWERS[truth][0]}."

    def judgement(self) -> tuple[str, str]:
        clause = self.clause()
        other, truth = self.claim(clause)
        return str(clause), f"it is {ANSWERS[truth][1]} that {other}"

    def claims(self) -> tuple[str, str]:
        """Three statements about a short sentence, and their truth: many lessons in few words."""
        self.grammar.richness = 0.1
        clause = self.grammar.clause()
        judged = [self.claim(clause) for _ in range(3)]
        return str(clause), " ".join(f"{ANSWERS[truth][1]}: {claim}." for claim, truth in judged)

    def related(self) -> tuple[str, str]:
        clause = self.clause()
        other = vary(clause, self.grammar, self.rng.random())
        opening = next(word for least, word in RELATED if overlap(clause, other) >= least)
        return str(clause), f"{opening}, {paraphrase(other, self.rng)}"

    def review(self) -> tuple[str, str]:
        """An opinion and its conclusion, which comes first in every third text."""
        verdict = self.rng.choice((1, -1))
        opinion, conclusion = self.critic.review(verdict), self.critic.conclusion(verdict)
        return (conclusion, opinion) if self.rng.random() < 0.33 else (opinion, conclusion)

    def column(self) -> tuple[str, str]:
        """Many words of one polarity; without such texts polarity is learnt much later."""
        verdict = self.rng.choice((1, -1))
        return self.critic.column(verdict), self.critic.conclusion(verdict)

    def definition(self) -> tuple[str, str]:
        category = self.rng.choice(list(lex.NOUN_SETS))
        adjectives = [s for sets in lex.ADJECTIVE_SETS.values() for s in sets]
        noun = self.rng.choice(lex.NOUN_SETS[category])
        kind = lex.HYPERNYM_SETS[category].words[0][0]
        pools = (
            [noun],
            adjectives,
            lex.MANNER_SETS,
            lex.TRANSITIVE_SETS,
            ADJECTIVES[1],
            ADJECTIVES[-1],
        )
        synset = self.rng.choice(self.rng.choice(pools))
        words = [forms[0] for forms in self.rng.sample(synset.words, len(synset.words))]
        first = f"every {noun.words[0][0]} is a kind of {kind}"
        if len(words) > 1:
            first = self.rng.choice(DEFINITIONS).format(*words)
        if synset.antonym:
            return (
                first,
                f"{words[0]} is the opposite of {self.rng.choice(synset.antonym[0].words)[0]}",
            )
        return first, f"{words[0]} is not the same as {self.rng.choice(adjectives).words[0][0]}"

    def story(self) -> tuple[str, str]:
        """Two events; the second refers to the subject of the first by a pronoun."""
        clause, verb = self.clause(), self.grammar.word(lex.INTRANSITIVE_SETS).form(1)
        subject = clause.subject
        pronoun = (
            "they" if subject.plural else PRONOUNS.get(subject.noun.synset.category, ("it",))[0]
        )
        return str(clause), f"then {pronoun} {verb}"
