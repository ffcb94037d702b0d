"""SQuAD 1.1 (Rajpurkar et al. 2016): questions whose answers stand in a paragraph.

    {"data": [{"paragraphs": [{"context": "...",
                               "qas": [{"question": "...", "answers": [{"text": "..."}]}]}]}]}

A source is the question, an empty line and the paragraph, so that a cut takes the paragraph's end.
A question of the training file has one
answer, one of the dev file several, which are the references of one example.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loradrop.tasks.official import OfficialTask
from loradrop.tasks.text import Entry


class Squad(OfficialTask):
    """Answers in the words of a paragraph."""

    def read(self, path: Path, training: bool) -> list[Entry]:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            return list(questions(content))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: it is no file of SQuAD 1.1 ({type(error).__name__}: {error})."
            ) from None


def questions(content: Any) -> Iterator[Entry]:
    """Yield question and paragraph, and the answers, of a parsed file."""
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [answer["text"] for answer in question["answers"]]
                yield f"{question['question']}\n\n{paragraph['context']}", answers
