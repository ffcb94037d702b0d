"""How a model is trained: the keys of a YAML in conf/recipe. Free of torch, so that a config is checked in no time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Recipe:
    """AdamW with a linear schedule; values come from YAML alone. ValueError: a number out of range."""

    learning_rate: float
    batch_size: int  # global: over all devices
    epochs: int
    warmup_ratio: float  # of all steps
    weight_decay: float
    max_length: int  # tokens, special tokens included
    max_grad_norm: float | None
    lora_alpha: float  # the alpha of LoRA that goes with this learning rate

    def __post_init__(self) -> None:
        for key in ("learning_rate", "batch_size", "epochs", "max_length", "lora_alpha"):
            if not getattr(self, key) > 0:
                raise ValueError(f"recipe.{key} must be positive, got {getattr(self, key)}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"recipe.warmup_ratio must lie in [0, 1], got {self.warmup_ratio}")
        if self.weight_decay < 0:
            raise ValueError(f"recipe.weight_decay must not be negative, got {self.weight_decay}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"recipe.max_grad_norm must be positive or null, got {self.max_grad_norm}")
