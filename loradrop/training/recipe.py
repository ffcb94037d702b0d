"""How a model is trained and how it generates: the keys of conf/recipe and conf/decoding.

This module does not import torch, so a config is checked at once.
"""

from __future__ import annotations

from dataclasses import dataclass

ERROR, TRUNCATE, DROP = LONG_ROWS = ("error", "truncate", "drop")


@dataclass
class Recipe:
    """AdamW with a linear schedule. All values come from YAML.

    Args:
        learning_rate: The peak learning rate.
        batch_size: The global batch size, over all devices.
        epochs: The number of epochs. 0 runs only what precedes training (LoRA-drop's measurement).
        warmup_ratio: The share of all steps that warm up.
        weight_decay: AdamW's weight decay.
        max_length: The largest number of tokens of a row, with special tokens.
        max_grad_norm: Gradients are clipped to this norm. None does not clip.
        lora_alpha: LoRA's alpha that goes with this learning rate.
        lora_rank: LoRA's rank on this task. None in results that are older than this key.
        adapter_learning_rate: The learning rate of what trains outside the head. None takes
            `learning_rate`.
        long_rows: What becomes of rows of more than `max_length` tokens: `error`, `truncate`, or
            `drop`, which leaves them out of training and cuts them for evaluation.

    Raises:
        ValueError: A number is out of range.
    """

    learning_rate: float
    batch_size: int
    epochs: int
    warmup_ratio: float
    weight_decay: float
    max_length: int
    max_grad_norm: float | None
    lora_alpha: float
    lora_rank: int | None = None
    adapter_learning_rate: float | None = (
        None  # of what trains outside the head; None: learning_rate
    )
    long_rows: str = TRUNCATE

    def __post_init__(self) -> None:
        for key in ("learning_rate", "batch_size", "max_length", "lora_alpha"):
            if not getattr(self, key) > 0:
                raise ValueError(f"recipe.{key} must be positive, got {getattr(self, key)}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"recipe.lora_rank must be at least 1, got {self.lora_rank}")
        if self.adapter_learning_rate is not None and not self.adapter_learning_rate > 0:
            raise ValueError(
                "recipe.adapter_learning_rate must be positive or null, "
                f"got {self.adapter_learning_rate}"
            )
        if self.long_rows not in LONG_ROWS:
            raise ValueError(
                f"recipe.long_rows must be {', '.join(LONG_ROWS[:-1])} or {LONG_ROWS[-1]}, "
                f"got {self.long_rows!r}"
            )
        if self.epochs < 0:
            raise ValueError(f"recipe.epochs must not be negative, got {self.epochs}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"recipe.warmup_ratio must lie in [0, 1], got {self.warmup_ratio}")
        if self.weight_decay < 0:
            raise ValueError(f"recipe.weight_decay must not be negative, got {self.weight_decay}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(
                f"recipe.max_grad_norm must be positive or null, got {self.max_grad_norm}"
            )


@dataclass
class Decoding:
    """How texts are generated, by greedy search or beam search.

    Args:
        num_beams: The number of beams; 1 is greedy search.
        length_penalty: A beam's score is divided by its length to this power. Above 1, longer texts
            win.
        no_repeat_ngram_size: No n-gram of this size occurs twice in a text; 0 sets no limit.
        batch_size: The number of prompts in a batch.
        every_epoch: Whether to score every epoch, or only the last one.

    Raises:
        ValueError: A number is out of range.
    """

    num_beams: int
    length_penalty: (
        float  # exponent of the length that a beam's score is divided by; above 1 longer texts win
    )
    no_repeat_ngram_size: (
        int  # no n-gram of this size comes twice in a generated text; 0 for no limit
    )
    batch_size: int
    every_epoch: bool

    def __post_init__(self) -> None:
        for key in ("num_beams", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"decoding.{key} must be at least 1, got {getattr(self, key)}")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                "decoding.no_repeat_ngram_size must not be negative, "
                f"got {self.no_repeat_ngram_size}"
            )
