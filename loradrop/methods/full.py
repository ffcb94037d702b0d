"""Full fine-tuning: every parameter trains (Full-FT in the paper's tables)."""

from torch import nn

from loradrop.methods.base import Method


class Full(Method):
    """Train every parameter."""

    def install(self, model: nn.Module) -> None:
        model.requires_grad_(True)
