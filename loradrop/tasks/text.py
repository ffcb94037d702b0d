"""Tasks that answer with a text: rows, prompts, token ids and scores.

A training row has `source` and `target`, one row for each reference. An evaluation row has `source`
and `references`, a list of all of them. The prompt is the task's template with the source filled
in, and the target follows it. Prompt and target are tokenised separately and concatenated, so
the boundary is the same in training and generation, whatever the tokenizer merges.

    training     [bos] prompt target eos, at most max_length tokens; labels of [bos] prompt are -100
    evaluation   [bos] prompt, at most max_length - max_new_tokens tokens

If a prompt is too long, the end of its source is cut off, word by word. The template and the target
are never cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, Features, List, Value

from loradrop.sampling import quantile_bins
from loradrop.tasks.base import FITS, LITERAL, NEEDED, Splits, Task, Values

SOURCE, TARGET, REFERENCES = "source", "target", "references"
LABELS = "labels"  # of encoded rows
SLOT = "{source}"
IGNORED = -100  # the loss skips this label
Entry = tuple[str, list[str]]  # a source and its references


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A task that answers with a text.

    Args:
        template: The prompt, with {source} in it. It ends where the target begins.
        max_new_tokens: The largest number of tokens to generate.
    """

    generates: ClassVar[bool] = True

    template: str
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.template.count(SLOT) != 1:
            raise ValueError(f"template must have {SLOT} in it once, got {self.template!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be positive, got {self.max_new_tokens}")

    @property
    def encoding(self) -> tuple[str, ...]:
        return self.template, str(self.max_new_tokens)

    def prompt(self, source: str) -> str:
        return self.template.replace(SLOT, source)

    def check_references(self, splits: Splits) -> None:
        for metric in self._metrics():
            if usable := getattr(metric, "usable", None):  # a metric of the user has no such method
                for rows in splits.evaluation.values():
                    usable(rows[REFERENCES][:])

    def encode(self, rows: Mapping[str, list], tokenizer: Any, max_length: int) -> dict[str, list]:
        """Tokenise a batch of rows. Rows with a `target` are training rows.

        Returns:
            `input_ids`, `labels` for training rows, NEEDED, and FITS, which is 0 if there is no
            room for the template and the target or `max_new_tokens`.

        Raises:
            ValueError: The tokenizer has no end token.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{self.name}: the tokenizer has no end-of-text token, so it is not that of a "
                "generating model"
            )
        prompts = self._prompt_ids(rows[SOURCE], tokenizer)
        if TARGET in rows:
            texts = tokenizer(list(rows[TARGET]), add_special_tokens=False, **LITERAL)
            targets = [[*ids, tokenizer.eos_token_id] for ids in texts["input_ids"]]
            rooms = [max_length - len(target) for target in targets]
        else:
            targets = [[] for _ in prompts]
            rooms = [max_length - self.max_new_tokens] * len(prompts)
        cut = [
            self._cut(source, prompt, room, tokenizer)
            for source, prompt, room in zip(rows[SOURCE], prompts, rooms, strict=True)
        ]
        encoded: dict[str, list] = {
            "input_ids": [(ids or []) + target for ids, target in zip(cut, targets, strict=True)],
            NEEDED: [
                len(prompt) + max_length - room for prompt, room in zip(prompts, rooms, strict=True)
            ],
            FITS: [int(ids is not None) for ids in cut],
        }
        if TARGET in rows:
            encoded[LABELS] = [
                [IGNORED] * (len(ids) - len(target)) + target
                for ids, target in zip(encoded["input_ids"], targets, strict=True)
            ]
        return encoded

    def strata(self, rows: Dataset) -> Sequence[Hashable]:
        """Return the decile of each target's length in characters: these tasks have no classes."""
        return quantile_bins([len(text) for text in rows[TARGET]])

    def decode(self, text: str) -> str:
        """Return the part to score of a generated text without prompt and special tokens."""
        return text.strip()

    def score_texts(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        """Score decoded texts of one split, 0 to 1. `score` takes several splits at once."""
        return self.score({"": (predictions, references)})

    def _made_up(self) -> tuple[Values, Values]:
        texts = ["the answer is 1", "the answer is 2"]
        return texts, [[text] for text in texts]

    def _prompt_ids(self, sources: Sequence[str], tokenizer: Any) -> list[list[int]]:
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        prompts = [self.prompt(source) for source in sources]
        encoded = tokenizer(prompts, add_special_tokens=False, **LITERAL)["input_ids"]
        return [start + ids for ids in encoded]

    def _cut(self, source: str, prompt: list[int], room: int, tokenizer: Any) -> list[int] | None:
        """Fit a prompt into `room` tokens.

        Returns:
            The prompt's ids with as much of the source as fits. None if the template alone does not
            fit.
        """
        if len(prompt) <= room:
            return prompt
        words = source.split(" ")

        def without(lost: int) -> list[int]:
            return self._prompt_ids([" ".join(words[: len(words) - lost]).rstrip()], tokenizer)[0]

        lost = bisect_left(range(len(words) + 1), True, key=lambda lost: len(without(lost)) <= room)
        return None if lost > len(words) else without(lost)


def training_rows(pairs: Sequence[tuple[str, str]], path: Path | str) -> Dataset:
    """Make rows of (source, target). Raise ValueError if there are none."""
    if not pairs:
        raise ValueError(f"{path} has no rows.")
    features = Features({SOURCE: Value("string"), TARGET: Value("string")})
    sources, targets = zip(*pairs, strict=True)
    return Dataset.from_dict({SOURCE: sources, TARGET: targets}, features=features)


def evaluation_rows(entries: Sequence[Entry], path: Path | str) -> Dataset:
    """Make rows of (source, all its references).

    Raises:
        ValueError: There are no rows, or a row has only empty references.
    """
    if not entries:
        raise ValueError(f"{path} has no rows.")
    for number, (source, texts) in enumerate(entries, start=1):
        if not any(text.strip() for text in texts):
            raise ValueError(f"{path}, entry {number}: no reference for {source[:60]!r}.")
    features = Features({SOURCE: Value("string"), REFERENCES: List(Value("string"))})
    sources, references = zip(*entries, strict=True)
    return Dataset.from_dict({SOURCE: sources, REFERENCES: references}, features=features)
