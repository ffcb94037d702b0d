"""The Lightning module of runs that answer with a text: trained on prompts and targets, scored on what it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from loradrop.modules import RunModule
from loradrop.recipe import Decoding


class GenerationModule(RunModule):
    """Batches of prompts are padded on the left, so that all texts of a batch begin at the same position."""

    def __init__(self, *args: Any, tokenizer: Any, decoding: Decoding, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = tokenizer
        self.generation = GenerationConfig(
            max_new_tokens=self.data.task.max_new_tokens,
            num_beams=decoding.num_beams,
            length_penalty=decoding.length_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.predictions: dict[str, list[str]] = {}  # of the epoch scored last, in the order of the split's rows

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        sequences = self.model.generate(**batch, generation_config=self.generation)
        texts = self.tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        self.outputs.setdefault(self.split_name(dataloader_idx), []).append(texts)

    def collected(self) -> Mapping[str, tuple[Sequence[str], Sequence[list[str]]]]:
        task, splits = self.data.task, self.data.splits.evaluation
        self.predictions = {}
        for split, batches in self.outputs.items():
            texts = [text for batch in batches for text in batch]
            in_order = sorted(zip(self.data.evaluation_order(split), texts, strict=True))
            self.predictions[split] = [task.decode(text) for _, text in in_order]
        return {split: (texts, splits[split]["references"][:]) for split, texts in self.predictions.items()}

    def remembered(self) -> dict[str, Any]:
        return super().remembered() | {"predictions": self.predictions}

    @torch.no_grad()
    def on_validation_start(self) -> None:
        self.model.config.use_cache = True

    def on_validation_end(self) -> None:
        self.model.config.use_cache = False
