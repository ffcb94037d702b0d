"""BLEU and NIST of e2e-metrics' Python part (metrics/pymteval.py, `measure_scores.py -p`).

Both count tokens of mteval-v13a in lower case, and clip n-grams by the most that any one reference
has of them. Texts of fewer words than an n-gram count as there, unlike in mteval-v13a.pl and
sacrebleu: an empty text is one empty word, and a text of two words takes one from the number of
4-grams. Only where this leaves fewer n-grams than were right, so that more than all would be, they
are as many here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

BLEU_ORDER, NIST_ORDER = 4, 5  # longest n-grams
LEAST_HITS, LEAST_TOTAL = 1e-15, 1e-9  # BLEU's, so that its logarithms exist
BETA = -math.log(0.5) / math.log(1.5) ** 2  # NIST: two thirds of the length halve the score


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of a corpus (Papineni et al. 2002), 0 to 1.

    Args:
        predictions: The generated texts.
        references: The references of each text. Their number may differ.
    """
    hits, totals, usual = [0] * BLEU_ORDER, [0] * BLEU_ORDER, 0
    for text, texts in zip(predictions, references, strict=True):
        ours, theirs = words(text), [words(one) for one in texts]
        for ngram, count in _found(ours, theirs, BLEU_ORDER).items():
            hits[len(ngram) - 1] += count
        for n in range(BLEU_ORDER):
            totals[n] += len(ours) - n
        lengths = [len(tokens) for tokens in theirs]
        usual += min(lengths, key=lambda length: (abs(length - len(ours)), length))
    logs = [
        math.log(max(hit, LEAST_HITS) / max(total, hit, LEAST_TOTAL))
        for hit, total in zip(hits, totals, strict=True)
    ]
    return math.exp(min(0.0, 1 - usual / totals[0]) + sum(logs) / BLEU_ORDER)


def nist(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """NIST of a corpus (Doddington 2002); it has no upper bound, and about 8 is usual for E2E.

    The brevity penalty looks at the mean length of a row's references. The arguments are bleu's.
    """
    ours = [words(text) for text in predictions]
    theirs = [[words(text) for text in texts] for texts in references]
    counted = _ngrams([tokens for texts in theirs for tokens in texts], NIST_ORDER)
    counted[()] = sum(len(tokens) for texts in theirs for tokens in texts)
    gains, hits, totals = ([0.0] * NIST_ORDER for _ in range(3))
    for tokens, texts in zip(ours, theirs, strict=True):
        for ngram, count in _found(tokens, texts, NIST_ORDER).items():
            gains[len(ngram) - 1] += count * math.log2(counted[ngram[:-1]] / counted[ngram])
            hits[len(ngram) - 1] += count
        for n in range(NIST_ORDER):
            totals[n] += len(tokens) - n
    usual = sum(sum(map(len, texts)) / len(texts) for texts in theirs)
    penalty = math.exp(-BETA * math.log(min(1.0, totals[0] / usual)) ** 2)
    return penalty * sum(
        gain / max(total, hit) for gain, total, hit in zip(gains, totals, hits, strict=True) if hit
    )


def words(text: str) -> list[str]:
    """Return the tokens of mteval-v13a in lower case; of an empty text a single empty one."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()(text.lower()).split() or [""]


def _found(ours: list[str], theirs: list[list[str]], order: int) -> Counter:
    """Count our n-grams that a reference has, each at most as often as any one reference does."""
    most: Counter = Counter()
    for tokens in theirs:
        most |= _ngrams([tokens], order)  # the larger count of the two
    return _ngrams([ours], order) & most  # the smaller


def _ngrams(texts: Sequence[Sequence[str]], order: int) -> Counter:
    """Count the n-grams of all orders over all texts."""
    return Counter(
        tuple(tokens[i : i + n])
        for tokens in texts
        for n in range(1, order + 1)
        for i in range(len(tokens) - n + 1)
    )
