"""Text for pretraining: sentences that belong together stand together, so that one tells the other's masked words.

A text is one or two segments. Paraphrases, consequences, contradictions, questions with their answer and opinions with
their conclusion make synonymy, antonymy, negation and polarity worth knowing; no text carries a label of a task.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from loradrop.tasks import lexicon as lex
from loradrop.tasks.grammar import PRONOUNS, Clause, Grammar
from loradrop.tasks.meaning import FALSE, alter, overlap, paraphrase, vary, weaken
from loradrop.tasks.reviews import Critic

SAME = ("in other words,", "that is to say,", "put differently,")
SO = ("so", "therefore,", "it follows that", "hence")
RELATED = ((0.75, "almost the same:"), (0.45, "similarly,"), (0.0, "on another matter,"))  # from this overlap on
DEFINITIONS = ("{0} means {1}", "{0} is another word for {1}")


class Corpus:
    """An endless stream of texts; the same seed gives the same stream."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.grammar = Grammar(self.rng)
        self.critic = Critic(self.rng)
        self.kinds = {
            self.paraphrase: 12,
            self.consequence: 14,
            self.question: 18,
            self.denial: 8,
            self.related: 10,
            self.review: 26,
            self.definition: 4,
            self.story: 8,
        }

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            (kind,) = self.rng.choices(list(self.kinds), list(self.kinds.values()))
            yield self.segments(*kind())

    def segments(self, first: str, second: str) -> list[str]:
        """Half of the texts are a pair of segments, as in tasks on pairs, the others run on."""
        second = second if second[-1] in ".?" else second + "."
        return [f"{first}.", second] if self.rng.random() < 0.5 else [f"{first}. {second}"]

    def clause(self) -> Clause:
        self.grammar.richness = self.rng.uniform(0.1, 0.5)
        return self.grammar.clause()

    def implied(self, clause: Clause) -> Clause:
        return paraphrase(weaken(clause, self.rng) or clause, self.rng, 0.4)

    def paraphrase(self) -> tuple[str, str]:
        clause = self.clause()
        return str(clause), f"{self.rng.choice(SAME)} {paraphrase(clause, self.rng, 0.8)}"

    def consequence(self) -> tuple[str, str]:
        clause = self.clause()
        return str(clause), f"{self.rng.choice(SO)} {self.implied(clause)}"

    def question(self) -> tuple[str, str]:
        clause = self.clause()
        asked, answer = self.implied(clause), "yes"
        if self.rng.random() < 0.6:
            asked, truth = alter(clause, self.grammar)
            asked, answer = paraphrase(asked, self.rng, 0.4), "no" if truth == FALSE else "perhaps"
        return str(clause), f"is it true that {asked}? {answer}."

    def denial(self) -> tuple[str, str]:
        clause = self.clause()
        other, truth = alter(clause, self.grammar)
        opening = "it is wrong that" if truth == FALSE else "we cannot say whether"
        return str(clause), f"{opening} {paraphrase(other, self.rng, 0.4)}"

    def related(self) -> tuple[str, str]:
        clause = self.clause()
        other = vary(clause, self.grammar, self.rng.random())
        opening = next(words for least, words in RELATED if overlap(clause, other) >= least)
        return str(clause), f"{opening} {paraphrase(other, self.rng)}"

    def review(self) -> tuple[str, str]:
        verdict = self.rng.choice((1, -1))
        return self.critic.review(verdict), self.critic.conclusion(verdict)

    def definition(self) -> tuple[str, str]:
        category = self.rng.choice(list(lex.NOUN_SETS))
        adjectives = [s for sets in lex.ADJECTIVE_SETS.values() for s in sets]
        noun = self.rng.choice(lex.NOUN_SETS[category])
        kind = lex.HYPERNYM_SETS[category].words[0][0]
        synset = self.rng.choice(
            (noun, self.rng.choice(adjectives + lex.MANNER_SETS), self.rng.choice(lex.TRANSITIVE_SETS))
        )
        words = [forms[0] for forms in self.rng.sample(synset.words, len(synset.words))]
        first = f"every {noun.words[0][0]} is a kind of {kind}"
        if len(words) > 1:
            first = self.rng.choice(DEFINITIONS).format(*words)
        if synset.antonym:
            return first, f"{words[0]} is the opposite of {self.rng.choice(synset.antonym[0].words)[0]}"
        return first, f"{words[0]} is not the same as {self.rng.choice(adjectives).words[0][0]}"

    def story(self) -> tuple[str, str]:
        """Two events of which the second names the first one's subject by a pronoun."""
        clause, verb = self.clause(), self.grammar.word(lex.INTRANSITIVE_SETS).form(1)
        subject = clause.subject
        pronoun = "they" if subject.plural else PRONOUNS.get(subject.noun.synset.category, ("it",))[0]
        return str(clause), f"then {pronoun} {verb}"
