"""Fine-tuning the last layers alone (Lee, Tang and Lin 2019, arXiv 1911.03090, "What Would Elsa Do?").

Of L layers the last ceil(fraction L) train; embeddings, the layers below and whatever stands behind the stack stay frozen.
A quarter of the layers reached 90 % of full fine-tuning's quality in that paper.
"""

from __future__ import annotations

import math

from torch import nn

from loradrop.methods.base import Method


class LastLayers(Method):
    """`fraction` of the layers, in (0, 1], rounded up to whole ones."""

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
