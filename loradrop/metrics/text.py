"""Metrics of generated texts. A prediction is a text, its references are a list of texts.

TextOverlap (E2E, DART, DialogSum; values 0 to 1)
    bleu             Corpus BLEU-4 with all references of a row, by sacrebleu: 13a tokens, cased,
                     its default smoothing.
    rouge_l          ROUGE-L F1 (beta 1) by rouge_score without stemming: the best of a row's
                     references, mean over rows.
    char_bleu4       BLEU-4 over characters with smoothing method 3 (nltk), for each pair of a
                     prediction and a single reference, mean over pairs.
    rouge_l_single   rouge_l for each such pair, mean over pairs.
    llama_factory_rouge_l
                     ROUGE-L F1 over LLaMA-Factory's tokens for each such pair, mean over pairs:
                     case and punctuation count.

The first two are ours, like the third ROUGE-L with its plain words; the scores of the data's own
authors are in official.py. char_bleu4 and llama_factory_rouge_l are here because LoRA-drop prints
BLEU above ROUGE-L everywhere (E2E 53.70 and 35.94), which no word-level BLEU-4 does. The scripts of
ChatGLM and LLaMA-Factory compute them (llamafactory/train/sft/metric.py: each line of a data file
is a row with one reference, hence the pairs), so the paper's tables probably show them. That is a
deduction: the paper names no implementation.

FinalAnswer (GSM8K)
    accuracy         The share of rows whose final number equals that of a reference; see
                     `final_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Features, List, Value

from loradrop.metrics.coco import longest_common_subsequence
from loradrop.metrics.labels import OfflineMetric

LATIN = re.compile("[A-Za-z0-9]")
# jieba's of English: letters and digits, a number with its decimals, any other mark alone
LLAMA_FACTORY_TOKENS = re.compile(r"[A-Za-z0-9]+(?:\.[0-9]+)?%?|[+#&._%-]+|\S")
MARKER = "####"  # precedes the final answer in GSM8K
NUMBER = re.compile(
    # in `16-3` and `2)-1` the sign is an operator
    r"(?P<sign>(?<![\w.)\]])[-\u2212])?(?:[$\u00a3\u20ac]\s?)?"
    r"(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.(?P<part>[0-9]+))?"
    r"|\.(?P<only>[0-9]+))"
)


class TextMetric(OfflineMetric):
    """Base class. It checks the references and drops blank ones from rows that have others."""

    layout = None
    latin = False  # whether it counts words of Latin letters and digits alone

    def _features(self) -> Features:
        return Features({"predictions": Value("string"), "references": List(Value("string"))})

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        if len(predictions) == 0:
            raise ValueError(f"{type(self).__name__}: there are no predictions to score.")
        scores = self._scores(predictions, self.usable(references))
        return {key: float(value) for key, value in scores.items()}

    def usable(self, references: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return the references that are not blank.

        Raises:
            ValueError: A row has none, or a reference has no letter that the metric counts, so that
                its score would always be 0.
        """
        name = type(self).__name__
        kept = [[text for text in texts or () if text and text.strip()] for texts in references]
        for row, texts in enumerate(kept, start=1):
            if not texts:
                raise ValueError(f"{name}: row {row} of {len(kept)} has no reference.")
            strange = [text for text in texts if self.latin and not LATIN.search(text)]
            if strange:
                raise ValueError(
                    f"{name}: ROUGE counts words of Latin letters and digits, and a reference of "
                    f"row {row} has none: {strange[0][:60]!r}. Take another task.metric for such "
                    "texts."
                )
        return kept

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        raise NotImplementedError


class TextOverlap(TextMetric):
    """`bleu` and `rouge_l` over all references; `char_bleu4`, `rouge_l_single` and
    `llama_factory_rouge_l` over each alone.
    """

    latin = True

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        best, single = rouge_l(predictions, references)
        return {
            "bleu": corpus_bleu(predictions, references),
            "rouge_l": best,
            "char_bleu4": char_bleu4(predictions, references),
            "rouge_l_single": single,
            "llama_factory_rouge_l": llama_factory_rouge_l(predictions, references),
        }


class FinalAnswer(TextMetric):
    """`accuracy`: the share of predictions whose final number equals that of a reference."""

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        wanted = [[final_answer(text) for text in texts] for texts in references]
        for row, (answers, texts) in enumerate(zip(wanted, references, strict=True), start=1):
            if None in answers:
                raise ValueError(
                    f"FinalAnswer: the reference of row {row} has no number: "
                    f"{texts[answers.index(None)]!r}."
                )
        hits = [
            final_answer(text) in answers for text, answers in zip(predictions, wanted, strict=True)
        ]
        return {"accuracy": float(np.mean(hits))}


def corpus_bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
) -> float:
    """BLEU-4 (Papineni et al. 2002) by sacrebleu, 0 to 1.

    Args:
        predictions: The generated texts.
        references: The references of each text. Their number may differ.
        options: Of sacrebleu's BLEU, where they are not its defaults.
    """
    from sacrebleu.metrics import BLEU

    # force: no warning for texts that end with " ." and so look tokenised
    bleu = BLEU(tokenize="13a", force=True, **options)
    # sacrebleu takes None where a row has fewer references; its annotation does not say so
    score = bleu.corpus_score(list(predictions), streams(references)).score  # type: ignore[arg-type]
    return min(1.0, score / 100)  # rounding: a perfect score is 100.00000000000004


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return the first reference of each row, then the second ones; None where there is none."""
    return [
        [texts[i] if i < len(texts) else None for texts in references]
        for i in range(max(map(len, references)))
    ]


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, float]:
    """ROUGE-L F1 (Lin 2004) by rouge_score, 0 to 1.

    Returns:
        The mean over rows of the best reference, and the mean over all pairs.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = [
        [scorer.score(text, prediction)["rougeL"].fmeasure for text in texts]
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    return float(np.mean([max(row) for row in pairs])), float(
        np.mean([value for row in pairs for value in row])
    )


def char_bleu4(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Sentence BLEU-4 over characters by nltk, mean over all pairs, 0 to 1.

    Smoothing method 3 of Chen and Cherry (2014).
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method3
    return float(
        np.mean(
            [
                sentence_bleu([list(text)], list(prediction), smoothing_function=smooth)
                for prediction, texts in zip(predictions, references, strict=True)
                for text in texts
            ]
        )
    )


def llama_factory_rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L F1 as LLaMA-Factory has it, mean over all pairs, 0 to 1.

    Its tokens (jieba's of English) keep case and punctuation; a number keeps its decimals. Words
    that jieba knows as a whole, such as C++ and Chinese ones, are taken apart here.
    """
    split = LLAMA_FACTORY_TOKENS.findall
    scores = []
    for prediction, texts in zip(predictions, references, strict=True):
        ours = split(prediction)
        for theirs in map(split, texts):
            common = longest_common_subsequence(ours, theirs)
            scores.append(2 * common / (len(ours) + len(theirs)) if common else 0.0)
    return float(np.mean(scores))


def final_answer(text: str) -> str | None:
    """Return the number that ends an answer, in a normal form.

    It is the first number after the first `####`, or without that marker the last number of the
    text. Commas, currency, percent sign and redundant zeros are removed. A comma belongs to a
    number between groups of three digits; 50% is 50; a minus sign touches its number, and after a
    digit, a letter or a bracket it is an operator. A result's normal form is the result itself.

    Returns:
        The number, None if there is none.
    """
    _, marker, answer = text.partition(MARKER)
    found = list(NUMBER.finditer(answer if marker else text))
    if not found:
        return None
    number = found[0 if marker else -1]
    whole = (number["whole"] or "").replace(",", "").lstrip("0") or "0"
    part = (number["part"] or number["only"] or "").rstrip("0")
    value = f"{whole}.{part}" if part else whole
    return f"-{value}" if number["sign"] and value != "0" else value
