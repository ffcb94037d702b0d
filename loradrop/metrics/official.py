"""The scores that the authors of a data set print, or those who report on it, beside our own.

A task of that data names its class (`official_metric`); the keys below are added to the task's
metric. Values are fractions unless said otherwise.

E2E (github.com/tuetschek/e2e-metrics, as LoRA calls it: `measure_scores.py -p`)
    e2e_bleu, e2e_nist        metrics/mteval.py: case does not count; NIST is no fraction (about 8)
    e2e_rouge_l, e2e_cider    COCO's captions (metrics/coco.py); CIDEr is no fraction (about 2)
LoRADart (microsoft/LoRA, examples/NLG: gpt2_decode.py --tokenize --lower --ref_num 6, eval.py)
    dart_bleu                 multi-bleu-detok.perl
    dart_ter                  the lowest translation edit rate of a row's references, mean over rows
    dart_chrf                 chrF++ of the corpus
Gsm8kRule (openai/grade-school-math, dataset.py)
    gsm8k_accuracy            equality of what follows `#### `, a number, as a text without commas
StemmedRouge (cylnlp/DialogSum, Baseline/bart_train.py; usual for XSum)
    stemmed_rouge1, stemmed_rouge2, stemmed_rouge_l
                              rouge_score with its stemmer, mean over all pairs of a text and one
                              reference, i.e. of the script's results for summary1 to summary3;
                              the script prints the median of resampled means in its place
SquadAnswer (SQuAD v1.1's evaluate-v1.1.py)
    exact_match, f1           without case, punctuation and articles; over references the best

Known differences: LoRA's copy of E2E has blanks around all marks of sources and references, here
the references are as published. LoRA merges DART's entries with the same triples before it takes
six references, here each entry is a row. Its TER is pyter's, which finds fewer shifts than
sacrebleu's, so its rate is higher (46.4 where ours is 43.5 on sentences of E2E). Its chrF++ is not
in its tables.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from loradrop.metrics import coco, mteval
from loradrop.metrics.text import TextMetric, corpus_bleu, streams

T = TypeVar("T")

GSM8K_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
ARTICLES = re.compile(r"\b(a|an|the)\b")
DART_REFERENCES = 6


class E2EChallenge(TextMetric):
    """`e2e_bleu`, `e2e_nist`, `e2e_rouge_l`, `e2e_cider`."""

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        tokens = [coco.words(text) for text in predictions]
        others = [[coco.words(text) for text in texts] for texts in references]
        return {
            "e2e_bleu": mteval.bleu(predictions, references),
            "e2e_nist": mteval.nist(predictions, references),
            "e2e_rouge_l": coco.rouge_l(tokens, others),
            "e2e_cider": coco.cider(tokens, others),
        }


class LoRADart(TextMetric):
    """`dart_bleu`, `dart_ter`, `dart_chrf`, over six references of a row at most."""

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        from sacrebleu.metrics import CHRF, TER

        texts = [apart(text) for text in predictions]
        others = [[apart(text) for text in some[:DART_REFERENCES]] for some in references]
        rate, chrf = TER().sentence_score, CHRF(word_order=2)
        return {
            "dart_bleu": corpus_bleu(texts, others, smooth_method="none"),
            "dart_ter": best(lambda a, b: rate(a, [b]).score / 100, texts, others, min),
            # None where a row has fewer references, which sacrebleu's annotation does not allow
            "dart_chrf": chrf.corpus_score(texts, streams(others)).score / 100,  # type: ignore[arg-type]
        }


class Gsm8kRule(TextMetric):
    """`gsm8k_accuracy`: the answer after `####`, compared as a text."""

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        hits = [
            (answer := gsm8k_answer(prediction)) is not None
            and answer in [gsm8k_answer(text) for text in texts]
            for prediction, texts in zip(predictions, references, strict=True)
        ]
        return {"gsm8k_accuracy": float(np.mean(hits))}


class StemmedRouge(TextMetric):
    """`stemmed_rouge1`, `stemmed_rouge2`, `stemmed_rouge_l`, over all pairs."""

    latin = True

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        names = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
        scorer = RougeScorer(list(names), use_stemmer=True)
        pairs = [
            scorer.score(text, prediction)
            for prediction, texts in zip(predictions, references, strict=True)
            for text in texts
        ]
        return {
            f"stemmed_{ours}": float(np.mean([pair[name].fmeasure for pair in pairs]))
            for name, ours in names.items()
        }


class SquadAnswer(TextMetric):
    """`exact_match` and `f1` of short answers."""

    def _scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        given = [squad_words(text) for text in predictions]
        wanted = [[squad_words(text) for text in texts] for texts in references]
        return {
            "exact_match": best(lambda a, b: float(a == b), given, wanted, max),
            "f1": best(word_f1, given, wanted, max),
        }


def best(
    score: Callable[[T, T], float],
    predictions: Sequence[T],
    references: Sequence[Sequence[T]],
    pick: Callable[[list[float]], float],
) -> float:
    """The mean over rows of the score of the reference that `pick` (min or max) prefers."""
    return float(
        np.mean(
            [
                pick([score(prediction, text) for text in texts])
                for prediction, texts in zip(predictions, references, strict=True)
            ]
        )
    )


def apart(text: str) -> str:
    """Lower-case a text and set every character apart that is no letter, digit or underscore."""
    return " ".join(" ".join(re.split(r"(\W)", text.lower())).split())


def gsm8k_answer(text: str) -> str | None:
    """Return the answer by the rule of GSM8K's authors, None if there is none."""
    match = GSM8K_ANSWER.search(text)
    return match[1].replace(",", "") if match else None


def squad_words(text: str) -> list[str]:
    """Return the words that SQuAD's script compares."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return ARTICLES.sub(" ", kept).split()


def word_f1(prediction: list[str], reference: list[str]) -> float:
    """F1 of the words of two texts, whatever their order; 0 if they have none in common."""
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference)) if common else 0.0
