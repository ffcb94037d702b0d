"""Linear probing: only the head trains, which shows what the frozen backbone is worth by itself."""

from torch import nn

from loradrop.methods.base import Method


class LinearProbe(Method):
    """Train nothing but the head."""

    def install(self, model: nn.Module) -> None:
        """Add nothing: the backbone arrives frozen except for its head."""
