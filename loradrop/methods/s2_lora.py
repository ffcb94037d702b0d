"""S2-LoRA: all modules share one LoRA, and each has its own sparse coefficients over the ranks.

    h = W x + (alpha / r) B diag(c_k) A x,  loss + l1 * sum_k |c_k|

Liu et al. 2023, arXiv 2309.11756. A (r, d_in) and B (d_out, r) are trained and shared by all
modules k; c_k (r) starts at 1. This follows the paper's abstract: its initial values and its
weight of the L1 term were not available.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.inject import lora_modules, wrap
from loradrop.lora.layer import fresh_matrices
from loradrop.lora.sites import Site
from loradrop.methods.scaled import ScaledLoRA, ScaledLoRALinear, widest


class S2LoRA(ScaledLoRA):
    """One LoRA for all modules, with sparse coefficients per module.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        l1: The weight in the loss of the coefficients' L1 norm.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        l1: float,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        if l1 < 0:
            raise ValueError(f"l1 must not be negative, got {l1}")
        self.l1 = l1

    def adapt(self, model: nn.Module) -> None:
        d_in, d_out = widest(model, self.target_modules)
        shape = SimpleNamespace(
            in_features=d_in, out_features=d_out, weight=next(model.parameters())
        )
        matrices = fresh_matrices(shape, self.rank)

        def wrapped(_: Site, base: Any) -> ScaledLoRALinear:
            c = nn.Parameter(torch.ones(self.rank, dtype=torch.float32, device=base.weight.device))
            return ScaledLoRALinear(base, self.rank, self.alpha, self.dropout, matrices, c, None)

        wrap(model, self.target_modules, wrapped)

    def penalty(self, model: nn.Module) -> Tensor | None:
        modules: dict[str, Any] = lora_modules(model)  # ScaledLoRALinear, each with its c
        return self.l1 * sum(module.lora_u.abs().sum() for module in modules.values())
