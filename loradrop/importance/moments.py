"""What `measure` hangs onto the LoRA modules: r x r moments of z = A x, so that no d_out-dimensional output is formed.

With the moment M = mean of z z^T (r x r), mean || s B z ||^2 = s^2 trace(B^T B M), s the scaling. Torch only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.token_masks import TokenMask
from loradrop.lora.peft import LoRA

TOKENS, EXAMPLES, TARGET_TOKENS = AVERAGES = ("tokens", "examples", "target_tokens")


class MomentAccumulator:
    """Accumulates the r x r moment of z = A x of one LoRA."""

    def __init__(self, lora: LoRA, masks: TokenMask, average_over: str, keep_norms: bool) -> None:
        device = lora.lora_A.device
        self.lora, self.masks, self.average_over = lora, masks, average_over
        self.moment = torch.zeros(lora.rank, lora.rank, dtype=torch.float64, device=device)
        # sums stay on the device: reading them here would make a GPU wait at every module
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)
        self.norms: list[Tensor] | None = [] if keep_norms else None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook; args[0] is x (batch, tokens, d_in), or with the first two flattened into one."""
        x = args[0]
        if not self.masks.counts(module, x):
            return
        mask = self.masks.of(module, x)
        # layers may be spread over devices
        weights = (torch.ones(x.shape[:-1], device=x.device) if mask is None else mask.to(x.device) != 0).float()
        counted = weights.flatten() > 0  # (N,)
        if self.average_over == EXAMPLES:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        weights = weights.flatten()  # (N,)
        with torch.autocast(x.device.type, enabled=False):
            # a LoRA in bf16 multiplies as in training, but its products are added up in float32
            z = self.lora.down(x.flatten(0, -2)).float()  # (N, r)
            self.moment += (z.T @ (z * weights[:, None])).double()
            if self.norms is not None:
                self.norms.append(((self.lora.scaling * self._up(z[counted])) ** 2).sum(-1).cpu())
        self.weight += weights.sum()
        self.tokens += counted.sum()

    def mean_squared_norm(self) -> float:
        rows = self._up(torch.eye(self.lora.rank, device=self.moment.device)).detach().double()  # (r, d_out), B^T
        return float(self.lora.scaling**2 * torch.sum((rows @ rows.T) * self.moment) / self.weight)

    def _up(self, z: Tensor) -> Tensor:
        return self.lora.up(z.to(self.lora.lora_B.dtype)).float()


def sum_over_processes(meters: Iterable[MomentAccumulator]) -> None:
    """Add up what the processes of torch.distributed have seen, in one all-reduce; nothing without a process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    parts = [part for meter in meters for part in (meter.moment, meter.weight, meter.tokens)]
    # in float64, which holds the numbers of tokens exactly
    together = torch.cat([part.flatten().to(parts[0].device, torch.float64) for part in parts])
    torch.distributed.all_reduce(together)
    for part, total in zip(parts, together.split([part.numel() for part in parts]), strict=True):
        part.copy_(total.view_as(part))


@contextmanager
def hooked(meters: Iterable[MomentAccumulator], masks: TokenMask) -> Iterator[None]:
    """The meters see every input of their modules inside the block."""
    handles = [meter.lora.register_forward_pre_hook(meter) for meter in meters]
    try:
        with masks.watching():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own training flag is put back afterwards."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    for module in flags:
        # in eval mode on a CPU bitsandbytes repacks 4-bit weights for inference, and cannot train on them any more
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.training = True
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def to_device(value: Any, device: torch.device) -> Any:
    """Every tensor of a tensor, list, tuple or dictionary on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {key: to_device(value[key], device) for key in value.keys()}  # noqa: SIM118 (a BatchEncoding iterates otherwise)
    if isinstance(value, list | tuple):
        return [to_device(part, device) for part in value]
    return value
