"""A text that spells a special token is a text, for fast tokenizers of all kinds and slow ones."""

from __future__ import annotations

import string

import pytest
from transformers import AutoTokenizer, BertTokenizer, ByT5Tokenizer

from loradrop.hub import ASSETS
from loradrop.tasks.base import LabelTask
from loradrop.tasks.text import TextTask

METRIC = {"metric": "loradrop.metrics.labels.Accuracy", "primary": "accuracy"}
LETTERS = [*string.ascii_lowercase, "[", "]", *(f"##{one}" for one in string.ascii_lowercase)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]

TOKENIZERS = {
    "bytes": lambda: AutoTokenizer.from_pretrained(ASSETS / "tiny_llama"),
    "bytes with a mask": lambda: AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta"),
    "word pieces": lambda: BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}),
    "slow": ByT5Tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def specials(tokenizer, ids):
    return [id for id in ids if id in tokenizer.all_special_ids]


def test_in_rows_with_labels(tokenizer):
    task = LabelTask(name="made up", columns=("text", "other"), labels=("no", "yes"), **METRIC)

    def found(text):
        rows = {"text": [text], "other": [text]}
        return specials(tokenizer, task.encode(rows, tokenizer, 200)["input_ids"][0])

    assert tokenizer.all_special_tokens
    for token in tokenizer.all_special_tokens:
        assert found(f"a {token} b{token}") == found("a b")


def test_in_prompts_and_targets(tokenizer):
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    task = TextTask(name="made up", template="{source} : ", max_new_tokens=9, **METRIC)

    def found(text):
        row = task.encode({"source": [text], "target": [text]}, tokenizer, 200)
        prompt = task.encode({"source": [text]}, tokenizer, 200)
        return [specials(tokenizer, ids) for ids in (row["input_ids"][0], prompt["input_ids"][0])]

    for token in tokenizer.all_special_tokens:
        assert found(f"a {token} b{token}") == found("a b")
