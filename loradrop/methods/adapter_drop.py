"""AdapterDrop for LoRA: the lowest layers have no adapter (Rueckle et al. 2021, arXiv 2010.11918).

This is the specialised form: the number of dropped layers is the same in training and in use.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from loradrop.lora.inject import lora_sites, remove_lora
from loradrop.methods.lora import LoRA


class AdapterDrop(LoRA):
    """LoRA without adapters in the lowest layers.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        dropped_layers: The number of lowest layers without LoRA.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        dropped_layers: int,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        if dropped_layers < 0:
            raise ValueError(f"dropped_layers must not be negative, got {dropped_layers}")
        self.dropped_layers = dropped_layers

    def install(self, model: nn.Module) -> None:
        super().install(model)
        sites = list(lora_sites(model))
        layers = sorted({site.layer for site in sites})
        if self.dropped_layers >= len(layers):
            raise ValueError(
                f"dropped_layers must be below the model's {len(layers)} layers, "
                f"got {self.dropped_layers}"
            )
        lowest = layers[: self.dropped_layers]
        remove_lora(model, [site.name for site in sites if site.layer in lowest])
