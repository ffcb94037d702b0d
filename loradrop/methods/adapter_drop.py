"""AdapterDrop for LoRA: no adapter in the lowest layers (Rueckle et al. 2021, arXiv 2010.11918).

The specialised form: the number of layers is fixed for training and for use.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from loradrop.lora.inject import lora_sites, remove_lora
from loradrop.methods.lora import LoRA


class AdapterDrop(LoRA):
    """`dropped_layers`: how many of the lowest layers get no LoRA."""

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
                f"dropped_layers must be below the model's {len(layers)} layers, got {self.dropped_layers}"
            )
        lowest = layers[: self.dropped_layers]
        remove_lora(model, [site.name for site in sites if site.layer in lowest])
