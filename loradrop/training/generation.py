"""The Lightning module for tasks that answer with a text.

It trains on prompts and targets and scores what the model generates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor

from loradrop.tasks.text import TextTask
from loradrop.training.module import RunModule
from loradrop.training.recipe import Decoding


class NoRepeatedNgrams(NoRepeatNGramLogitsProcessor):
    """Forbid repeated n-grams among the generated tokens.

    transformers' own setting also forbids n-grams of the prompt, and so the names that a text has
    to copy from it. In the LoRA paper's search only the generated text counts (microsoft/LoRA,
    examples/NLG/src/gpt2_beam.py: `history`).

    Args:
        size: The n of the n-grams.
        start: The width of the prompts, at which the generated tokens start.
    """

    def __init__(self, size: int, start: int) -> None:
        super().__init__(size)
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return super().__call__(input_ids[:, self.start :], scores)


class GenerationModule(RunModule):
    """Train on prompts and targets, score generated texts.

    Batches of prompts are padded on the left, so all texts of a batch begin at the same position.

    Args:
        tokenizer: The backbone's tokenizer.
        decoding: How texts are generated.
        args, kwargs: As in RunModule.
    """

    def __init__(self, *args: Any, tokenizer: Any, decoding: Decoding, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = tokenizer
        self.task = cast(TextTask, self.data.task)
        self.no_repeat_ngram_size = decoding.no_repeat_ngram_size
        # replaces the checkpoint's, from which generate() would take e.g. a repetition penalty
        self.model.generation_config = GenerationConfig(
            max_new_tokens=self.task.max_new_tokens,
            num_beams=decoding.num_beams,
            length_penalty=decoding.length_penalty,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        # the texts of the epoch scored last, by split, in the order of its rows
        self.predictions: dict[str, list[str]] = {}
        # how many of them reached max_new_tokens, by split
        self.unended: dict[str, int] = {}

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        start, size = batch["input_ids"].shape[1], self.no_repeat_ngram_size
        limits = [NoRepeatedNgrams(size, start)] if size else []
        options = {"generation_config": self.model.generation_config, "logits_processor": limits}
        # divided weights are gathered in each forward pass, so all processes need as many
        options["synced_gpus"] = self.data.world_size > 1
        sequences = self.model.generate(**batch, **options)[:, start:]
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        unended = int((sequences != self.tokenizer.eos_token_id).all(dim=1).sum())
        self.outputs.setdefault(self.split_name(dataloader_idx), []).append((texts, unended))

    def collected(self) -> Mapping[str, tuple[Sequence[str], Sequence[list[str]]]]:
        splits = self.data.splits.evaluation
        self.predictions, self.unended = {}, {}
        for split, batches in self.outputs.items():
            texts = [text for batch, _ in batches for text in batch]
            in_order = sorted(zip(self.data.evaluation_order(split), texts, strict=True))
            self.predictions[split] = [self.task.decode(text) for _, text in in_order]
            self.unended[split] = sum(unended for _, unended in batches)
        return {
            split: (texts, splits[split]["references"][:])
            for split, texts in self.predictions.items()
        }

    def remembered(self) -> dict[str, Any]:
        return super().remembered() | {"predictions": self.predictions, "unended": self.unended}

    def notes(self) -> list[str]:
        name = self.task.name
        sizes = {split: len(rows) for split, rows in self.data.evaluation.items()}
        return [
            f"{name}: {count} of {sizes[split]} texts for {split} were cut off at "
            "task.max_new_tokens"
            for split, count in self.best.get("unended", {}).items()
            if count
        ]

    @torch.no_grad()
    def on_validation_start(self) -> None:
        self.model.config.use_cache = True

    def on_validation_end(self) -> None:
        self.model.config.use_cache = False
