"""The scores of e2e-metrics that come from COCO's captions, and the words they count.

Values agree with pycocoevalcap on the same words. Its tokenizer (Stanford's, in Java) is
rebuilt here from nltk's: all 9,365 descriptions of E2E's dev and test sets give the same words, and
95 % of the sentences of DART's. What differs there is mostly the full stop of `J. Smith`, which
keeps it in Java; web addresses, smileys and names such as R&B differ as well.
METEOR, the third of these scores, is left out, as it needs Java and tables of paraphrases.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

Words = Sequence[str]

# Stanford's tokenizer writes pounds, euros, quotes, dashes and the ellipsis so
ASCII = str.maketrans(
    {
        "\u00a3": "#",
        "\u20ac": "$",
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2013\u2014", " -- "),
        "\u2026": " ... ",
    }
)
# a full stop within the text, which nltk's, made for single sentences, leaves at its word
FULL_STOP = re.compile(r"(?<=[^\s.])\.+(?=[\s\"')?!]|$)|(?<=\s)\.(?=[a-z])")
# what Stanford's splits off, and nltk's does not
APART = re.compile(r"(-(?=\s|#|$)|(?<=\s)-(?=[a-z]))")
# one word for Stanford's, which nltk's takes apart unless the marks are wide ones
SEVERAL_MARKS = re.compile(r"[?!]{2,}")
WIDE, NARROW = str.maketrans("?!", "\uff1f\uff01"), str.maketrans("\uff1f\uff01", "?!")
# brackets are meant to go as well, but the scripts look for -LRB- where the text has -lrb-
DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
ROUGE_BETA = 1.2  # weight of recall
CIDER_ORDER = 4  # longest n-grams
CIDER_SIGMA = 6.0  # tokens by which a length may differ


def words(text: str) -> list[str]:
    """Return the lower-case words of a text as the Penn Treebank splits them, no punctuation."""
    from nltk.tokenize import NLTKWordTokenizer

    text = text.translate(ASCII).lower()
    text = SEVERAL_MARKS.sub(lambda marks: f" {marks[0].translate(WIDE)} ", text)
    text = APART.sub(r" \1 ", FULL_STOP.sub(" . ", text))
    found = NLTKWordTokenizer().tokenize(text, convert_parentheses=True)
    return [word.lower().translate(NARROW) for word in found if word not in DROPPED]


def longest_common_subsequence(first: Words, second: Words) -> int:
    """Return the number of words in the longest common subsequence."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        above = row
    return above[-1]


def rouge_l(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """ROUGE-L of COCO's captions: best precision and best recall, each over all references.

    The two may come from different references. Their F-score has beta 1.2, and the rows' mean is
    returned. A text without words is a single empty one, as there.
    """
    scores = []
    for prediction, texts in zip(predictions, references, strict=True):
        ours, theirs = prediction or [""], [text or [""] for text in texts]
        common = [longest_common_subsequence(ours, text) for text in theirs]
        precision = max(common) / len(ours)
        recall = max(n / len(text) for n, text in zip(common, theirs, strict=True))
        weighted = recall + ROUGE_BETA**2 * precision
        scores.append((1 + ROUGE_BETA**2) * precision * recall / weighted if weighted else 0.0)
    return float(np.mean(scores))


def cider(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D (Vedantam et al. 2015), 0 to 10; 0 for a single row, whose n-grams weigh nothing."""
    counted = [[_ngrams(text) for text in texts] for texts in references]
    rows_with = Counter(ngram for texts in counted for ngram in set().union(*texts))
    logs = {ngram: math.log(len(counted) / rows) for ngram, rows in rows_with.items()}
    unseen = math.log(len(counted))

    def weighted(counts: Counter) -> list[dict[tuple[str, ...], float]]:
        """For each order, the n-grams with count times inverse document frequency."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(CIDER_ORDER)]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * logs.get(ngram, unseen)
        return vectors

    scores = []
    for prediction, texts in zip(predictions, references, strict=True):
        ours = weighted(_ngrams(prediction))
        similarities = [
            _similarity(ours, weighted(_ngrams(text)), len(prediction) - len(text))
            for text in texts
        ]
        scores.append(10 * float(np.mean(similarities)))
    return float(np.mean(scores))


def _ngrams(text: Words) -> Counter:
    """Count the n-grams of all orders."""
    return Counter(
        tuple(text[i : i + n]) for n in range(1, CIDER_ORDER + 1) for i in range(len(text) - n + 1)
    )


def _similarity(
    ours: list[dict[tuple[str, ...], float]],
    theirs: list[dict[tuple[str, ...], float]],
    longer: int,
) -> float:
    """Return the mean over orders of the clipped cosine, damped by the difference in length."""
    cosines = []
    for first, second in zip(ours, theirs, strict=True):
        product = sum(
            min(value, second.get(ngram, 0.0)) * second.get(ngram, 0.0)
            for ngram, value in first.items()
        )
        norm = np.sqrt(
            sum(value**2 for value in first.values()) * sum(value**2 for value in second.values())
        )
        cosines.append(product / norm if norm else 0.0)
    return float(np.mean(cosines) * np.exp(-(longer**2) / (2 * CIDER_SIGMA**2)))
