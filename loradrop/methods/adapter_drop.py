"""AdapterDrop for LoRA: the lowest layers have no adapter (Rueckle et al. 2021, arXiv 2010.11918).

In the specialised form the number of dropped layers is the same in training and in use. In the
robust form each training batch draws it anew, uniformly from none to all but one of the layers, so
that one trained adapter can be used with any number; it is scored with `dropped_layers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.inject import lora_sites, remove_lora, wrap
from loradrop.lora.layer import LoRALinear
from loradrop.methods.lora import LoRA


class DroppableLoRALinear(LoRALinear):
    """A LoRALinear that can be switched off, so that the frozen module alone computes."""

    dropped = False

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.dropped else super().forward(x)


class AdapterDrop(LoRA):
    """LoRA without adapters in the lowest layers.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        dropped_layers: The number of lowest layers without LoRA.
        robust: Whether all layers train, and each training batch drops a random number of the
            lowest ones. Otherwise the dropped layers never have a LoRA.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        dropped_layers: int,
        robust: bool,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        if dropped_layers < 0:
            raise ValueError(f"dropped_layers must not be negative, got {dropped_layers}")
        self.dropped_layers, self.robust = dropped_layers, robust

    def adapt(self, model: nn.Module) -> None:
        if not self.robust:
            super().adapt(model)
            return
        wrap(
            model,
            self.target_modules,
            lambda _, base: DroppableLoRALinear(base, self.rank, self.alpha, self.dropout),
        )

    def install(self, model: nn.Module) -> None:
        super().install(model)
        sites = list(lora_sites(model))
        layers = sorted({site.layer for site in sites})
        if self.dropped_layers >= len(layers):
            raise ValueError(
                f"dropped_layers must be below the model's {len(layers)} layers, "
                f"got {self.dropped_layers}"
            )
        if self.robust:
            model.register_forward_pre_hook(self._drop)
        else:
            lowest = layers[: self.dropped_layers]
            remove_lora(model, [site.name for site in sites if site.layer in lowest])

    def _drop(self, model: nn.Module, _: tuple[Any, ...]) -> None:
        """Switch off the lowest layers' LoRA: a random number of them in training."""
        modules: dict[Any, Any] = lora_sites(model)
        layers = sorted({site.layer for site in modules})
        number = self.dropped_layers
        if model.training:
            # from torch's generator, which a run reseeds in every step
            number = int(torch.randint(len(layers), ()))
        for site, module in modules.items():
            module.dropped = site.layer in layers[:number]
