"""The official scores against cases counted by hand, and against what the authors' programs print.

PRINTED and PRINTED_OF_ODD were made once, on TEXTS and ODD: by e2e-metrics' pymteval.py,
pycocoevalcap 1.2 with Stanford's tokenizer, jieba 0.42.1 with rouge-chinese 1.0.3, and pyter3 0.3.
"""

from __future__ import annotations

import math

import pytest

from loradrop.metrics import coco, official
from loradrop.metrics.mteval import bleu, nist
from loradrop.metrics.text import TextOverlap

TEXTS = {
    "The Mill, in the city centre, serves French food.": [
        "The Mill serves french food in the centre of the city.",
        "In the city centre you can find The Mill. It's French, and family-friendly.",
    ],
    "Blue Spice is a cheap pub (rated 5 out of 5)": [
        "Blue Spice is a \u00a320-25 pub rated 5 out of 5.",
        "A pub with a rating of 5 out of 5, Blue Spice isn't cheap.",
        "There is a cheap pub; it is Blue Spice.",
    ],
    "a caf\u00e9 by the river": ["It is a caf\u00e9 near the river."],
    "The Punter has low prices. Low prices!": [
        "The Punter has high prices.",
        "Low prices, that is The Punter.",
    ],
}
PRINTED = {
    "e2e_bleu": 0.392700266009913,
    "e2e_nist": 4.815423686931481,
    "e2e_rouge_l": 0.657873633110226,
    "e2e_cider": 2.993196711276164,
    "llama_factory_rouge_l": 0.4836217704380458,
    "char_bleu4": 0.5644797968471216,
    "dart_ter": 0.49583333333333335,
}
# empty, short, in capitals, not Latin, with typographic marks
ODD = {
    "": ["Nothing."],
    "A PUB.": ["a pub", "A cheap pub, it is."],
    "\u6771\u4eac \u2014 Caf\u00e9 \u201cMill\u201d isn\u2019t cheap!!": [
        '\u6771\u4eac: the Caf\u00e9 "Mill" isn\'t cheap.',
        "\u041c\u043e\u0441\u043a\u0432\u0430",
    ],
    "...": ["The Mill, 5/5, and/or the pub: \u20ac20\u2026"],
    "the mill serves French food by the river": ["The Mill serves french food near it"],
}
PRINTED_OF_ODD = {
    "e2e_bleu": 0.17560288209724795,
    "e2e_nist": 1.4376808071451288,
    "e2e_rouge_l": 0.5063843236409608,
    "e2e_cider": 2.417798572920497,
}


def scored(metric, texts):
    return metric().compute(predictions=list(texts), references=list(texts.values()))


def test_the_authors_programs_print_the_same():
    found = {
        key: value
        for metric in (official.E2EChallenge, official.LoRADart, TextOverlap)
        for key, value in scored(metric, TEXTS).items()
    }
    assert {key: found[key] for key in PRINTED} == pytest.approx(PRINTED, rel=1e-7)
    assert scored(official.E2EChallenge, ODD) == pytest.approx(PRINTED_OF_ODD, rel=1e-9)


def test_case_does_not_count_for_e2e():
    texts = {"The Mill serves french food near the old bridge": ["The Mill serves French food"]}
    assert scored(official.E2EChallenge, {"A B c d": ["a b c d"]})["e2e_bleu"] == 1.0
    # 5 of 9, 4 of 8, 3 of 7 and 2 of 6 n-grams
    by_hand = (5 / 9 * 4 / 8 * 3 / 7 * 2 / 6) ** 0.25
    assert scored(official.E2EChallenge, texts)["e2e_bleu"] == pytest.approx(by_hand)
    cased = (4 / 9 * 2 / 8 * 1 / 7) ** (1 / 3)  # no 4-gram: smoothed
    assert scored(TextOverlap, texts)["bleu"] < cased


def test_rouge_l_of_coco_takes_precision_and_recall_from_different_references():
    # 2 of 2 words of the first reference are found, 4 of 6 of the prediction stand in the second
    value = coco.rouge_l([list("abcdef")], [[list("ab"), list("abcdxyzw")]])
    assert value == pytest.approx(2.44 * (4 / 6) * 1 / (1 + 1.44 * (4 / 6)))
    assert coco.rouge_l([[]], [[["a"]]]) == coco.rouge_l([["b"]], [[["a"]]]) == 0.0
    assert coco.rouge_l([[]], [[["a"], []]]) == 1.0  # two empty texts


def test_nist_by_hand():
    # log2 of 4 / 2 for a, of 4 / 1 for b, of 2 / 1 for a b
    assert nist(["a b"], [["a b", "a c"]]) == pytest.approx((1 + 2) / 2 + 1 / 1)
    # a single reference holds only one a, and 2 of 3 words halve the score
    assert nist(["a a"], [["a b c"]]) == pytest.approx(math.log2(3 / 1) / 2 * 0.5)
    assert nist([""], [["a"]]) == 0.0


def test_short_texts_take_ngrams_away_as_in_e2e_metrics_but_never_those_that_are_right():
    # 6 of 6 + 2 words, 4 of 5 + 1 pairs, 2 of 4 + 0 trigrams, 1 of 3 - 1 4-grams
    texts = ["a b c d x a", "A B"], [["a b c d"], ["a b"]]
    assert bleu(*texts) == pytest.approx((6 / 8 * 4 / 6 * 2 / 4 * 1 / 2) ** 0.25)
    # with two empty ones there would be 3 - 2 - 2 4-grams
    texts = ["a b c d e f", "", ""], [["a b c d e f"], ["g"], ["g"]]
    assert bleu(*texts) == pytest.approx((6 / 8) ** 0.25)
    assert nist(*texts) == pytest.approx(6 / 8 * math.log2(8 / 1))  # longer ones tell nothing new


def test_cider_by_hand():
    # each n-gram stands in one row of two: cosines of 1 for words and pairs, 0 for longer ones
    assert coco.cider([["x", "y"], ["z"]], [[["x", "y"]], [["w"]]]) == pytest.approx(10 * 0.5 / 2)
    # a word too many: of words 1 / sqrt(2), of pairs none, and a length that differs by 1
    damped = 1 / math.sqrt(2) / 4 * math.exp(-1 / 72)
    value = coco.cider([["x", "y"], ["z"]], [[["x"]], [["w"]]])
    assert value == pytest.approx(10 * damped / 2)
    assert coco.cider([["x"]], [[["x"]]]) == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It isn't cheap. The Mill's kid-friendly!", "it is n't cheap the mill 's kid-friendly"),
        ("for \u00a320-\u00a325 (5 out of 5)", "for # 20 # 25 -lrb- 5 out of 5 -rrb-"),
        ("One -- two... three; \u201cfour\u201d", "one two three four"),
        ("\u2018It isn\u2019t\u2019 a \u2013 b\u2026 c\u2014d", "it is n't a b c d"),
        ("not family -friendly, -5 of 5.!! Wow.!", "not family friendly -5 of 5 !! wow"),
        ("5/5 and/or \u20ac5!!! Why?! Oh! So?", "5/5 and/or $ 5 !!! why ?! oh so"),
    ],
)
def test_words_of_coco(text, words):
    assert coco.words(text) == words.split()


def test_dart_is_scored_in_lower_case_on_separate_marks_with_six_references():
    assert official.apart("Don't,  A-b_c") == "don ' t , a - b_c"
    six = [f"nothing at all {i}" for i in range(6)]
    assert scored(official.LoRADart, {"Is It a (B)?": [*six[:5], "is it A(b) ?"]}) == pytest.approx(
        {"dart_bleu": 1.0, "dart_ter": 0.0, "dart_chrf": 1.0}
    )
    assert scored(official.LoRADart, {"is it a b": [*six, "is it a b"]})["dart_bleu"] == 0.0
    # one of three words is left out; one of four is put in and one replaced
    rates = scored(official.LoRADart, {"a b": ["a c b d", "a b c"], "e": ["f"]})
    assert rates["dart_ter"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 12.\n#### 12", "12"),
        ("#### -1,234.50 pounds", "-1234.50"),
        ("#### 7 #### 8", "7"),
        ("#### 72.", "72."),  # not 72
        ("####72", None),
        ("#### $72", None),
        ("the answer is 18", None),
    ],
)
def test_the_rule_of_gsm8k(text, answer):
    assert official.gsm8k_answer(text) == answer
    right = scored(official.Gsm8kRule, {text: [f"... #### {answer}"]})
    assert right == {"gsm8k_accuracy": float(answer is not None)}


def test_rouge_of_the_summaries_is_stemmed_and_ours_is_not():
    texts = {"he runs home": ["he was running home", "nobody"]}
    assert scored(official.StemmedRouge, texts) == pytest.approx(
        {"stemmed_rouge1": 6 / 7 / 2, "stemmed_rouge2": 2 / 5 / 2, "stemmed_rouge_l": 6 / 7 / 2}
    )
    assert scored(TextOverlap, texts)["rouge_l"] == pytest.approx(4 / 7)
    assert scored(TextOverlap, texts)["rouge_l_single"] == pytest.approx(4 / 7 / 2)


@pytest.mark.parametrize("text", ["\u4f60\u597d", "\u043f\u0440\u0438\u0432\u0435\u0442", "?!"])
def test_rouge_of_summaries_without_latin_letters_is_an_error_not_0(text):
    with pytest.raises(ValueError, match="StemmedRouge: ROUGE counts words of Latin letters"):
        scored(official.StemmedRouge, {text: [text]})


def test_llama_factory_counts_case_and_punctuation():
    texts = {"It costs 3.50, not 4.": ["it costs 3.50 not 4"]}  # 4 of 7 and of 5 tokens
    assert scored(TextOverlap, texts)["llama_factory_rouge_l"] == pytest.approx(2 * 4 / 12)


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("the Eiffel Tower!", ["Paris", "Eiffel tower"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 2 * 1 / 4),
        ("a a b b", ["b b b"], 0, 2 * 2 / 5),  # the articles do not count
        ("Rome", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("U.S.A.", ["usa"], 1, 1),
    ],
)
def test_squad(prediction, references, exact, f1):
    value = scored(official.SquadAnswer, {prediction: references})
    assert value == pytest.approx({"exact_match": exact, "f1": f1})
