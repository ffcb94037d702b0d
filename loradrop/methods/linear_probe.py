"""The head alone: what the frozen backbone's representation is worth without any adapter (linear probing)."""

from torch import nn

from loradrop.methods.base import Method


class LinearProbe(Method):
    def install(self, model: nn.Module) -> None:
        """Nothing to add: the backbone comes frozen except for its head."""
