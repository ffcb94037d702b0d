"""LoRA: h = W x + (alpha / r) B A x, around any linear module.

Shapes: x (..., d_in), A (r, d_in), B (d_out, r), h (..., d_out). A is Kaiming-uniform with a =
sqrt(5) and B is zero, as in the released package of Hu et al. 2021 (arXiv 2106.09685, Section 4.1)
and LoRA-drop's Appendix A.1, so that a fresh adapter leaves the model's output unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear module with a trainable low-rank update next to it, in that module's place.

    Args:
        base: The linear module. It is frozen. Its weight, bias, widths, training mode and other
            attributes are this module's as well.
        rank: r, from 1 to the smaller of its widths.
        alpha: Positive; the update is scaled by alpha / r.
        dropout: In [0, 1), of the update's input.
        matrices: A (r, d_in) and B (d_out, r) to be used as they are instead of fresh ones: a
            method's own, or shared with other modules.

    Raises:
        ValueError: A rank, alpha or dropout out of range.
    """

    # of a module that uses another's A and B: what transformers' save_pretrained, which refuses
    # shared tensors, leaves out
    _tied_weights_keys: dict[str, str] | None = None

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        matrices: tuple[nn.Parameter, nn.Parameter] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.base: Any = base.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.dropout = nn.Dropout(dropout)
        self.lora_A, self.lora_B = matrices or fresh_matrices(base, rank)
        self.train(base.training)  # in a model in eval mode its dropout must be off as well

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    @property
    def size(self) -> int:
        """The number of values in A and B, whether they are shared or not."""
        return self.lora_A.numel() + self.lora_B.numel()

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @property
    def weight(self) -> Tensor:
        """The frozen weight; some models read the type or device of a projection's weight."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias

    def __getattr__(self, name: str) -> Any:
        """Pass attributes of the base module on to code that expects a plain linear module."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")
            # what begins with an underscore belongs to libraries that keep notes on a module
            if name.startswith("_") or not hasattr(base, name):
                raise
            return getattr(base, name)

    def down(self, x: Tensor) -> Tensor:
        """A x: (..., d_in) -> (..., r)."""
        return x.to(self.lora_A.dtype) @ self.lora_A.T

    def up(self, z: Tensor) -> Tensor:
        """B z: (..., r) -> (..., d_out)."""
        return z @ self.lora_B.T

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        update = self.up(self.down(self.dropout(x)))
        # added before it is rounded to the base's type, as in PEFT
        return (h + self.scaling * update).to(h.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


def fresh_matrices(base: Any, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Make a new A (r, d_in), Kaiming-uniform, and B (d_out, r), zero.

    Args:
        base: The linear module whose widths and device they have.
        rank: r.

    Raises:
        ValueError: A rank that the module's widths do not allow.
    """
    d_in, d_out = base.in_features, base.out_features
    if not 1 <= rank <= min(d_in, d_out):
        raise ValueError(
            f"rank must lie between 1 and {min(d_in, d_out)} for a {d_in} x {d_out} module, got"
            f" {rank}"
        )
    # float32 whatever the base's type: updates of a bf16 or 4-bit model would be lost to rounding
    # GPTQ and its like have no `weight` but buffers of other names
    device = (base.weight if hasattr(base, "weight") else next(base.buffers())).device
    options: dict[str, Any] = {"dtype": torch.float32, "device": device}
    A = nn.Parameter(torch.empty(rank, d_in, **options))
    B = nn.Parameter(torch.zeros(d_out, rank, **options))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return A, B
