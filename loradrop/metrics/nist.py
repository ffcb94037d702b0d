"""NIST (Doddington 2002) with several references, over tokens of mteval-v13a in lower case.

nltk's takes one reference of a row at a time, and fails on short texts. This one agrees with the
Python part of e2e-metrics (metrics/pymteval.py): n-grams are clipped by the most that any one
reference has of them, and the brevity penalty looks at the mean length of a row's references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDER = 5
BETA = -math.log(0.5) / math.log(1.5) ** 2  # two thirds of the length halve the score


def nist(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """NIST of a corpus; it has no upper bound, and about 8 is usual for E2E.

    Args:
        predictions: The generated texts.
        references: The references of each text. Their number may differ.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split = Tokenizer13a()
    ours = [split(text.lower()).split() for text in predictions]
    theirs = [[split(text.lower()).split() for text in texts] for texts in references]
    counted = _ngrams([tokens for texts in theirs for tokens in texts])
    counted[()] = sum(len(tokens) for texts in theirs for tokens in texts)
    gain, total = [0.0] * ORDER, [0] * ORDER
    for tokens, texts in zip(ours, theirs, strict=True):
        most: Counter = Counter()
        for text in texts:
            most |= _ngrams([text])  # the larger count of the two
        for ngram, count in (_ngrams([tokens]) & most).items():  # the smaller
            gain[len(ngram) - 1] += count * math.log2(counted[ngram[:-1]] / counted[ngram])
        for n in range(ORDER):
            total[n] += max(0, len(tokens) - n)
    usual = sum(sum(map(len, texts)) / len(texts) for texts in theirs)
    ratio = min(1.0, total[0] / usual) if usual else 0.0
    penalty = math.exp(-BETA * math.log(ratio) ** 2) if ratio else 0.0
    return penalty * sum(g / t for g, t in zip(gain, total, strict=True) if t)


def _ngrams(texts: Sequence[Sequence[str]]) -> Counter:
    """Count the n-grams of all orders over all texts."""
    return Counter(
        tuple(tokens[i : i + n])
        for tokens in texts
        for n in range(1, ORDER + 1)
        for i in range(len(tokens) - n + 1)
    )
