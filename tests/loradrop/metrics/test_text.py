"""The scores of generated texts against the libraries called directly, sacrebleu's from its command
line.
"""

from __future__ import annotations

import pickle
import re
import shlex
import socket
import subprocess
import sys
from statistics import mean

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from experiments.score import export
from loradrop.metrics.text import FinalAnswer, TextOverlap, final_answer

PREDICTIONS = [
    "The Anchor is a cheap pub by the river.",
    "the mill serves french food , near the old bridge .",
    "A caf\u00e9 (5 out of 5) for \u00a320-25; it isn't for children.",
    "Nothing.",
    "",
]
REFERENCES = [
    [
        "The Anchor is an inexpensive pub by the river.",
        "By the river there is a cheap pub, The Anchor.",
        "The Anchor: a pub.",
    ],
    ["The Mill serves French food near the old bridge."],
    [
        "A caf\u00e9 rated 5 out of 5, \u00a320-25, not for children.",
        "For \u00a320-25, this caf\u00e9 is rated 5 out of 5.",
    ],
    ["Nothing is known of it.", "Nothing."],
    ["It is closed."],
]
PAIRS = [
    (prediction, text)
    for prediction, texts in zip(PREDICTIONS, REFERENCES, strict=True)
    for text in texts
]


def scores(predictions=PREDICTIONS, references=REFERENCES):
    return TextOverlap().compute(predictions=predictions, references=references)


@pytest.mark.parametrize("most", [1, 3])
def test_bleu_is_that_of_the_command_line(most, tmp_path):
    references = [[*texts[:most], " "] for texts in REFERENCES]  # blank: does not count
    texts = [
        f"over-\nlined {PREDICTIONS[0]}\r\n",
        f"two\n\nlines\u2028{PREDICTIONS[1]}",
        *PREDICTIONS[2:],
    ]
    half = {"dev": (texts[:2], references[:2]), "test": (texts[2:], references[2:])}
    command = [*shlex.split(export(half, tmp_path / "a folder")), "-b", "-w", "10"]
    printed = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert 10 < float(printed) < 90
    assert 100 * scores(texts, references)["bleu"] == pytest.approx(float(printed), abs=1e-9)


def test_rouge_l_is_the_best_of_a_rows_references():
    scorer = RougeScorer(["rougeL"])
    best = [
        scorer.score_multi(texts, one)["rougeL"].fmeasure
        for one, texts in zip(PREDICTIONS, REFERENCES, strict=True)
    ]
    assert scores()["rouge_l"] == pytest.approx(mean(best))
    single = [scorer.score(text, prediction)["rougeL"].fmeasure for prediction, text in PAIRS]
    assert scores()["rouge_l_single"] == pytest.approx(mean(single))
    assert scores()["rouge_l"] > scores()["rouge_l_single"]


@pytest.mark.parametrize("text", ["\u4f60\u597d", "\u043f\u0440\u0438\u0432\u0435\u0442", "?!"])
def test_rouge_of_a_reference_without_latin_letters_is_an_error_not_0(text):
    references = [["a song"], ["one", text]]
    with pytest.raises(ValueError, match=rf"reference of row 2 has none: {re.escape(repr(text))}"):
        scores([text, text], references)


def test_char_bleu4_takes_each_reference_as_a_row_of_its_own():
    smooth = SmoothingFunction().method3
    values = [
        sentence_bleu([list(text)], list(prediction), smoothing_function=smooth)
        for prediction, text in PAIRS
    ]
    assert scores()["char_bleu4"] == pytest.approx(mean(values))
    alone = scores([prediction for prediction, _ in PAIRS], [[text] for _, text in PAIRS])
    assert alone["char_bleu4"] == pytest.approx(scores()["char_bleu4"])
    assert (
        alone["rouge_l"]
        == pytest.approx(alone["rouge_l_single"])
        == pytest.approx(scores()["rouge_l_single"])
    )


def test_a_right_answer_scores_1_and_an_empty_one_0():
    right = scores([texts[-1] for texts in REFERENCES])
    assert right["bleu"] == 1.0 and right["rouge_l"] == 1.0
    one = [[texts[0]] for texts in REFERENCES]
    assert scores([texts[0] for texts in one], one) == pytest.approx(dict.fromkeys(right, 1.0))
    assert scores([""] * 5) == dict.fromkeys(right, 0.0)


def test_a_blank_reference_does_not_count_and_none_at_all_is_an_error():
    with_blank = [[*REFERENCES[0], " ", ""], *REFERENCES[1:]]
    assert scores(references=with_blank) == scores()
    for nothing in ([], [""], ["\n "]):
        with pytest.raises(ValueError, match="row 4 of 5 has no reference"):
            scores(references=[*REFERENCES[:3], nothing, REFERENCES[4]])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 * 4 = <<3*4=12>>12 apples.\n#### 12", "12"),
        ("#### 1,234,567", "1234567"),
        ("#### $1,200.50 each", "1200.5"),
        ("#### -5", "-5"),
        ("#### $-5", "-5"),
        ("#### -$5", "-5"),
        ("#### \u22125", "-5"),
        ("#### 3.0", "3"),
        ("#### 0.50", "0.5"),
        ("#### .5", "0.5"),
        ("#### 007", "7"),
        ("#### -0.0", "0"),
        ("#### 50%", "50"),
        ("#### 72.", "72"),
        ("#### 72 dollars!", "72"),
        ("####72", "72"),
        ("1 #### 2 #### 3", "2"),  # what follows the first answer does not count
        ("the answer is 18.", "18"),
        ("he has 16-3", "3"),
        ("5 apples, 6 pears, 11 in all", "11"),
        ("$ 5", "5"),
        ("3 - 5", "5"),  # an operator
        ("I do not know.", None),
        ("3 and #### nothing", None),
        ("", None),
    ],
)
def test_final_answer(text, number):
    assert final_answer(text) == number
    if number is not None:
        assert final_answer(number) == number
        reference = [["... #### " + number]]
        assert FinalAnswer().compute(predictions=[text], references=reference) == {"accuracy": 1.0}
    else:
        assert FinalAnswer().compute(predictions=[text], references=[["#### 0"]]) == {
            "accuracy": 0.0
        }


def test_accuracy_of_final_answers():
    predictions, references = (
        ["#### 3", "4.50", "no", "#### 1,000"],
        [["#### 3"], ["#### 4.5"], ["#### 0"], ["#### 100"]],
    )
    assert FinalAnswer().compute(predictions=predictions, references=references) == {
        "accuracy": 0.5
    }
    with pytest.raises(ValueError, match="reference of row 2 has no number: 'none'"):
        FinalAnswer().compute(predictions=["1", "2"], references=[["1"], ["none"]])


def test_batches_equal_one_call_and_a_failed_call_does_not_spoil_the_next():
    metric = TextOverlap()
    for start in (0, 2):
        stop = 2 if start == 0 else 5
        metric.add_batch(predictions=PREDICTIONS[start:stop], references=REFERENCES[start:stop])
    assert metric.compute() == scores()
    with pytest.raises(ValueError, match="no predictions"):
        metric.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="no reference"):
        metric.compute(predictions=["a"], references=[[]])
    with pytest.raises(ValueError, match="Mismatch"):
        metric.compute(predictions=["a", "b"], references=[["a"]])
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == scores()


def test_nothing_touches_the_disk_or_the_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for cls in (TextOverlap, FinalAnswer):
        metric = pickle.loads(pickle.dumps(cls()))  # a spawned process gets it like this
        metric.compute(predictions=["is 1 a b c"], references=[["is 1", "2"]])
    assert list(tmp_path.iterdir()) == []
