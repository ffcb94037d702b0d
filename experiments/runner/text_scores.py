"""Loss and accuracy of a decoder on given texts, without generating."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.runner.components import RunComponents
from loradrop.tasks.text import IGNORED, LABELS, REFERENCES, SOURCE, TARGET


def text_scores(components: RunComponents) -> dict[str, float]:
    """Score the first reference of each evaluation row, given its prompt and its own beginning.

    Call it within `no_grad`, in eval mode.

    Args:
        components: The objects of a run on a task that generates text.

    Returns:
        `loss`, the mean over tokens, and `score`, the share of tokens that are the likeliest ones.
    """
    loss, hits, tokens = 0.0, 0, 0
    for batch in reference_batches(components):
        labels = batch.pop(LABELS)[:, 1:].to(components.device)
        batch = {key: value.to(components.device) for key, value in batch.items()}
        counted = labels != IGNORED
        logits = components.model(**batch).logits[:, :-1][counted].float()
        loss += float(torch.nn.functional.cross_entropy(logits, labels[counted], reduction="sum"))
        hits += int((logits.argmax(-1) == labels[counted]).sum())
        tokens += len(logits)
    return {"loss": loss / tokens, "score": hits / tokens}


def reference_batches(components: RunComponents) -> Iterator[dict[str, Tensor]]:
    """Yield batches of prompts with their first reference, the longest rows first."""
    data = components.data
    for rows in data.splits.evaluation.values():
        firsts = [next(text for text in texts if text.strip()) for texts in rows[REFERENCES]]
        encoded = data.task.encode(
            {SOURCE: rows[SOURCE][:], TARGET: firsts},
            components.tokenizer,
            components.recipe.max_length,
        )
        ids, labels = encoded["input_ids"], encoded[LABELS]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        size = data.evaluation_batch_size or data.batch_size
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield data.collate(
                {
                    "input_ids": [ids[row] for row in part],
                    LABELS: [labels[row] for row in part],
                }
            )
