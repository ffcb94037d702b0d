"""VeRA: h = W x + diag(b) B diag(d) A x (Kopiczko et al. 2024, arXiv 2310.11454, Section 3).

All modules share one random, frozen pair A (r, d_in), B (d_out, r); each module trains d (r) and
b (d_out). There is no factor alpha / r. b starts at 0, which leaves the output unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loradrop.lora.inject import wrap
from loradrop.lora.sites import Site
from loradrop.methods.scaled import ScaledLoRA, ScaledLoRALinear, widest


class VeRA(ScaledLoRA):
    """Train only the vectors; the recipe's `adapter_learning_rate` applies to them.

    The projections are drawn when the method is installed, so they follow from the run's seed and
    need not be saved. As they are not trained, their rank may exceed the modules' width.

    Args:
        name, rank, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        d_initial: The initial value of the vector d; not 0.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        d_initial: float,
    ) -> None:
        super().__init__(name, rank, rank, dropout, target_modules)  # alpha = r: no scaling
        if d_initial == 0:
            raise ValueError(
                "d_initial must not be 0: with b = 0 as well nothing would have a gradient"
            )
        self.d_initial = d_initial

    def adapt(self, model: nn.Module) -> None:
        d_in, d_out = widest(model, self.target_modules)
        device = next(model.parameters()).device
        matrices = _random(self.rank, d_in, device), _random(d_out, self.rank, device)

        def wrapped(_: Site, base: Any) -> ScaledLoRALinear:
            options: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
            d = nn.Parameter(torch.full((self.rank,), self.d_initial, **options))
            b = nn.Parameter(torch.zeros(base.out_features, **options))
            return ScaledLoRALinear(base, self.rank, self.alpha, self.dropout, matrices, d, b)

        wrap(model, self.target_modules, wrapped)


def _random(rows: int, columns: int, device: torch.device) -> nn.Parameter:
    """Draw a frozen Kaiming-uniform matrix with gain sqrt(2), as PEFT does."""
    matrix = nn.Parameter(
        torch.empty(rows, columns, dtype=torch.float32, device=device), requires_grad=False
    )
    nn.init.kaiming_uniform_(matrix, a=0)
    return matrix
