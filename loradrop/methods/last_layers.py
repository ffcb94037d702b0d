"""Fine-tune the last layers only (Lee, Tang and Lin 2019, arXiv 1911.03090, "What Would Elsa Do?").

The last ceil(fraction L) of L layers train. Embeddings, the layers below and modules after the
stack stay frozen. In that paper a quarter of the layers reached 90 % of the quality of full
fine-tuning.
"""

from __future__ import annotations

import math

from torch import nn

from loradrop.methods.base import Method


class LastLayers(Method):
    """Train the last layers.

    Args:
        name: The method's name in results.
        fraction: The share of the layers that train, in (0, 1]. It is rounded up to whole layers.
    """

    def __init__(self, name: str, fraction: float) -> None:
        super().__init__(name)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
        self.fraction = fraction

    def install(self, model: nn.Module) -> None:
        stack = next(
            (module for module in model.modules() if isinstance(module, nn.ModuleList)), None
        )
        if stack is None:
            raise ValueError(f"{type(model).__name__} has no stack of layers (nn.ModuleList)")
        for layer in stack[-math.ceil(self.fraction * len(stack)) :]:
            layer.requires_grad_(True)
