"""Changes of a clause with a known effect on its meaning, and the meaning two clauses share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import (
    BELIEFS,
    PERFECT,
    PRESENT,
    Clause,
    Grammar,
    Phrase,
    Word,
    adjective_class,
)
from loradrop.tasks.builtin.language.lexicon import Synset

FALSE, UNKNOWN = "false", "unknown"  # what an altered clause is, given the original


def map_words(part: Any, change: Callable[[Word], Word]) -> Any:
    """Return the same phrase or clause with every word replaced by change(word)."""
    if isinstance(part, Word):
        return change(part)
    if isinstance(part, Phrase):
        return replace(
            part,
            noun=change(part.noun),
            adjectives=tuple(change(word) for word in part.adjectives),
            inner=map_words(part.inner, change),
            clause=map_words(part.clause, change),
        )
    if isinstance(part, Clause):
        names = ("subject", "verb", "object", "manner", "place", "time")
        holder = part.holder and (map_words(part.holder[0], change), part.holder[1])
        return replace(
            part, holder=holder, **{name: map_words(getattr(part, name), change) for name in names}
        )
    return part


def paraphrase(clause: Clause, rng: random.Random, probability: float = 0.6) -> Clause:
    """Say the same in other words: change synonyms, voice and the position of the time."""

    def synonym(word: Word) -> Word:
        size = len(word.synset.words)
        return (
            word._replace(position=rng.randrange(size))
            if size > 1 and rng.random() < probability
            else word
        )

    clause = map_words(clause, synonym)
    if clause.object and rng.random() < 0.3:
        clause = replace(clause, passive=not clause.passive)
    return replace(clause, fronted=rng.random() < 0.4)


def antonym(word: Word, rng: random.Random) -> Word | None:
    if not word.synset.antonym:
        return None
    synset = word.synset.antonym[0]
    return Word(synset, rng.randrange(len(synset.words)))


def bare(phrase: Phrase) -> Phrase:
    return replace(phrase, adjectives=(), link=None, inner=None, clause=None)


def general(phrase: Phrase) -> Phrase:
    return replace(bare(phrase), noun=Word(lex.HYPERNYM_SETS[phrase.noun.synset.category], 0))


def vaguer(phrase: Phrase) -> Phrase:
    return replace(phrase, determiner="some" if phrase.plural else "a")


def weaken(clause: Clause, rng: random.Random) -> Clause | None:
    """Return a clause that follows from this one and says less.

    Returns:
        The clause, or None if none is known, as below a negation or a doubt.
    """
    if clause.negated or (clause.holder and clause.holder[1] not in BELIEFS):
        return None
    options = [
        clause.with_part(name, None)
        for name in ("manner", "place", "time")
        if getattr(clause, name)
    ]
    if clause.holder:
        return replace(clause, holder=None)
    for name in ("subject", "object"):
        phrase = getattr(clause, name)
        if phrase is None:
            continue
        if phrase != bare(phrase):
            options += [clause.with_part(name, bare(phrase))] * 2
        if phrase.noun.synset is not lex.HYPERNYM_SETS[phrase.noun.synset.category]:
            options.append(clause.with_part(name, general(phrase)))
        if phrase.determiner not in ("a", "some"):
            options.append(clause.with_part(name, vaguer(phrase)))
        if phrase.adjectives:
            tense = PRESENT if clause.tense == PERFECT else clause.tense
            options.append(
                Clause(replace(phrase, adjectives=()), phrase.adjectives[0], tense=tense)
            )
        if phrase.clause:
            options.append(replace(phrase.clause, subject=replace(phrase, clause=None)))
    opposite = antonym(clause.verb, rng)
    if clause.is_copula and opposite:
        options.append(replace(clause, verb=opposite, negated=True))
    return rng.choice(options) if options else None


def sibling(word: Word, rng: random.Random) -> Word:
    """Return another noun of the category; it is not true of the same thing."""
    others = [synset for synset in lex.NOUN_SETS[word.synset.category] if synset is not word.synset]
    synset = rng.choice(others)
    return Word(synset, rng.randrange(len(synset.words)))


def other_verb(verb: Word, grammar: Grammar) -> Word:
    """Return another verb or predicate with the same subjects and objects that is no antonym."""
    synset = verb.synset
    if len(synset.words[0]) == 1:
        pool = lex.ADJECTIVE_SETS[synset.category]
    else:
        pool = lex.TRANSITIVE_SETS if synset.object_class else lex.INTRANSITIVE_SETS
    same = [
        s for s in pool if (s.category, s.object_class) == (synset.category, synset.object_class)
    ]
    return grammar.word(
        [s for s in same if s is not synset and s not in synset.antonym] or [synset]
    )


def swap_roles(clause: Clause) -> Clause | None:
    """Swap subject and object, if the verb allows both orders."""
    if not clause.object:
        return None
    allowed = lex.CLASS_CATEGORIES[clause.verb.synset.category]
    if clause.object.noun.synset.category not in allowed or str(clause.object) == str(
        clause.subject
    ):
        return None
    return replace(clause, subject=clause.object, object=clause.subject)


def alter(clause: Clause, grammar: Grammar) -> tuple[Clause, str]:
    """Return a clause that does not follow from this one, and whether it is false or unknown."""
    rng, options = grammar.rng, [(replace(clause, negated=not clause.negated), FALSE)]
    firm = not clause.negated
    swapped, opposite = swap_roles(clause), antonym(clause.verb, rng)
    if swapped:
        options += [(swapped, UNKNOWN)] * 2
    if opposite and firm:
        options += [(replace(clause, verb=opposite), FALSE)] * 2
    if clause.manner and firm and (manner := antonym(clause.manner, rng)):
        options.append((replace(clause, manner=manner), FALSE))
    for name in ("subject", "object"):
        phrase = getattr(clause, name)
        if phrase is None:
            continue
        other = replace(phrase, noun=sibling(phrase.noun, rng), clause=None)
        options.append((clause.with_part(name, other), UNKNOWN))
        if phrase.adjectives and (adjective := antonym(phrase.adjectives[0], rng)):
            described = replace(phrase, adjectives=(adjective,))
            options.append((clause.with_part(name, described), UNKNOWN))
        elif not phrase.adjectives and firm and not clause.is_copula:
            adjective = grammar.adjective(phrase.noun)
            described = replace(phrase, adjectives=(adjective,))
            options.append((clause.with_part(name, described), UNKNOWN))
    if firm and not clause.is_copula:
        name, pool = rng.choice((("place", lex.PLACE_SETS), ("time", lex.TIME_SETS)))
        old = getattr(clause, name)
        new = grammar.word([s for s in pool if not old or s is not old.synset])
        options.append((clause.with_part(name, new), UNKNOWN))
    if clause.holder and clause.holder[1] not in BELIEFS:
        return replace(clause, holder=None), UNKNOWN
    return rng.choice(options)


def vary(clause: Clause, grammar: Grammar, strength: float) -> Clause:
    """Return a similar clause in which each part changes with the probability `strength`."""
    rng = grammar.rng
    changed: dict[str, Any] = {}
    for name in ("subject", "object"):
        phrase = getattr(clause, name)
        if phrase and grammar.chance(strength):
            noun_class = (
                clause.verb.synset.category
                if name == "subject"
                else clause.verb.synset.object_class
            )
            if clause.is_copula:
                noun_class = {"thing": "ware"}.get(
                    adjective_class(phrase.noun), adjective_class(phrase.noun)
                )
            near = replace(bare(phrase), noun=sibling(phrase.noun, rng))
            changed[name] = rng.choice(
                (near, general(phrase), grammar.phrase(noun_class, simple=True))
            )
        elif phrase and grammar.chance(strength):
            changed[name] = bare(phrase)
    if grammar.chance(strength):
        changed["verb"] = (grammar.chance(0.4) and antonym(clause.verb, rng)) or other_verb(
            clause.verb, grammar
        )
    for name, pool in (
        ("manner", lex.MANNER_SETS),
        ("place", lex.PLACE_SETS),
        ("time", lex.TIME_SETS),
    ):
        if getattr(clause, name) and grammar.chance(strength):
            changed[name] = grammar.word(pool) if grammar.chance(0.5) else None
    if grammar.chance(strength * 0.4):
        changed["negated"] = not clause.negated
    return replace(clause, **changed)


def likeness(one: Word, other: Word) -> float:
    """Return 1 for synonyms, less for related words, 0 for unrelated ones."""
    a, b = one.synset, other.synset
    if a is b:
        return 1.0
    hypernyms: tuple[Synset | None, Synset | None] = (
        lex.HYPERNYM_SETS.get(a.category),
        lex.HYPERNYM_SETS.get(b.category),
    )
    if a in hypernyms or b in hypernyms:
        return 0.7 if a.category == b.category else 0.0
    if b in a.antonym:
        return 0.3
    return 0.4 if a.category in lex.NOUNS and a.category == b.category else 0.0


def overlap(one: Clause, other: Clause) -> float:
    """Return the share of the meaning that two clauses have in common, 0 to 1."""
    parts = [(4.0, likeness(one.verb, other.verb))]
    subjects = likeness(one.subject.noun, other.subject.noun)
    if one.object and other.object:
        straight = subjects + likeness(one.object.noun, other.object.noun)
        crossed = likeness(one.subject.noun, other.object.noun) + likeness(
            one.object.noun, other.subject.noun
        )
        parts.append((6.0, max(straight, 0.6 * crossed) / 2))
    else:
        parts.append((3.0, subjects))
    for mine, yours in zip(modifiers(one), modifiers(other), strict=True):
        if mine or yours:
            parts.append((1.0, likeness(mine, yours) if mine and yours else 0.0))
    share = sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
    return share * (0.6 if one.negated != other.negated else 1.0)


def modifiers(clause: Clause) -> list[Word | None]:
    phrases = (clause.subject, clause.object)
    adjectives = [
        phrase.adjectives[0] if phrase and phrase.adjectives else None for phrase in phrases
    ]
    return [*adjectives, clause.manner, clause.place, clause.time]
