"""How a model is trained and how it generates: the keys of a YAML in conf/recipe and in conf/decoding.

Free of torch, so that a config is checked in no time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Recipe:
    """AdamW with a linear schedule; values come from YAML alone. ValueError: a number out of range."""

    learning_rate: float
    batch_size: int  # global: over all devices
    epochs: int  # 0: what comes before training alone, LoRA-drop's measurement
    warmup_ratio: float  # of all steps
    weight_decay: float
    max_length: int  # tokens, special tokens included
    max_grad_norm: float | None
    lora_alpha: float  # the alpha of LoRA that goes with this learning rate
    adapter_learning_rate: float | None = (
        None  # of what trains outside the head; None: learning_rate
    )

    def __post_init__(self) -> None:
        for key in ("learning_rate", "batch_size", "max_length", "lora_alpha"):
            if not getattr(self, key) > 0:
                raise ValueError(f"recipe.{key} must be positive, got {getattr(self, key)}")
        if self.adapter_learning_rate is not None and not self.adapter_learning_rate > 0:
            raise ValueError(
                f"recipe.adapter_learning_rate must be positive or null, got {self.adapter_learning_rate}"
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
    """How texts are generated, by greedy search (num_beams 1) or beam search. ValueError: a number out of range."""

    num_beams: int
    length_penalty: (
        float  # exponent of the length that a beam's score is divided by; above 1 longer texts win
    )
    no_repeat_ngram_size: (
        int  # no n-gram of this size comes twice in a generated text; 0 for no limit
    )
    batch_size: int  # prompts at once
    every_epoch: bool  # score every epoch, or only the last one

    def __post_init__(self) -> None:
        for key in ("num_beams", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"decoding.{key} must be at least 1, got {getattr(self, key)}")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                f"decoding.no_repeat_ngram_size must not be negative, got {self.no_repeat_ngram_size}"
            )
