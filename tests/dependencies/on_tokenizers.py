"""What is relied on in tokenizers and generation."""

from __future__ import annotations

import torch
import transformers
from conftest import ROOT

from dependencies.table import relies_on, takes


def built_in_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(ROOT / "loradrop" / "assets" / "tiny_roberta")


@relies_on(
    "transformers",
    "split_special_tokens",
    "a special token that a text spells out is split into ordinary ones",
)
def _():
    tokenizer = built_in_tokenizer()
    tokenizer.split_special_tokens = True
    assert (
        tokenizer.eos_token_id not in tokenizer("a </s> b", add_special_tokens=False)["input_ids"]
    )


@relies_on(
    "transformers",
    "backend_tokenizer.to_str()",
    "the settings that use changes are `truncation` and `padding`",
)
def _():
    import json

    tokenizer = built_in_tokenizer()
    before = json.loads(tokenizer.backend_tokenizer.to_str())
    tokenizer(["a", "a b c"], truncation=True, max_length=4, padding=True)
    after = json.loads(tokenizer.backend_tokenizer.to_str())
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"truncation", "padding"} <= set(before), changed


@relies_on(
    "tokenizers",
    "byte_fallback",
    "the models of fast tokenizers say whether bytes stand in for unknown characters",
)
def _():
    from tokenizers.models import BPE

    assert BPE(byte_fallback=True).byte_fallback is True and BPE().byte_fallback is False


@relies_on(
    "transformers",
    "NoRepeatNGramLogitsProcessor",
    "a subclass may hand fewer tokens on to its __call__",
)
def _():
    takes(transformers.NoRepeatNGramLogitsProcessor.__call__, "input_ids", "scores")
    scores = transformers.NoRepeatNGramLogitsProcessor(2)(
        torch.tensor([[4, 5, 4]]), torch.zeros(1, 8)
    )
    assert scores[0, 5] == -float("inf")
