"""LoRA: h = W x + (alpha / r) B A x at every target module (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from loradrop.lora.inject import add_lora, lora_modules
from loradrop.lora.sites import as_list
from loradrop.methods.base import Method


class LoRA(Method):
    """Add a low-rank update to every target module.

    Args:
        name: The method's name in results.
        rank: The rank r of the update.
        alpha: The update is scaled by alpha / r.
        dropout: Dropout on the update's input, in [0, 1).
        target_modules: Suffixes of module names. None takes query and value of the model's family.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
    ) -> None:
        super().__init__(name)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.target_modules = as_list(target_modules)
        self.lora_parameters = 0

    def install(self, model: nn.Module) -> None:
        head = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.adapt(model)
        for parameter in head:
            parameter.requires_grad_(True)
        self.lora_parameters = sum(module.size for module in lora_modules(model).values())

    def adapt(self, model: nn.Module) -> None:
        """Add the adapters. Everything else is frozen, including the head."""
        add_lora(model, self.rank, self.alpha, self.dropout, self.target_modules)

    def result_fields(self) -> dict[str, Any]:
        return {"lora_parameters": self.lora_parameters}
