"""The hooks of `measure` on the LoRA modules, which add up r x r moments of z = A x.

With the moment M = mean of z z^T (r x r) and the scaling s, mean || s B z ||^2 = s^2 trace(B^T B
M), so that no d_out-dimensional output is formed. Torch only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.token_masks import TokenMask
from loradrop.lora.peft import LoRA
from loradrop.lora.sites import Site

TOKENS, EXAMPLES, TARGET_TOKENS = AVERAGES = ("tokens", "examples", "target_tokens")


class Moment:
    """The sum of z z^T over positions with z = A x, and the number of positions."""

    def __init__(self, rank: int, device: torch.device) -> None:
        # sums stay on the device: reading them here would make a GPU wait at every module (Apple's
        # has no float64)
        device = torch.device("cpu") if device.type == "mps" else device
        self.sum = torch.zeros(rank, rank, dtype=torch.float64, device=device)
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)
        self.norms: list[Tensor] = []


class MomentAccumulator:
    """Adds up the r x r moment of z = A x of one LoRA; a forward pre-hook of its module.

    Args:
        site: Where the LoRA is.
        lora: The LoRA.
        masks: What counts of each input.
        average_over: One of AVERAGES.
        keep_norms: Whether to keep the squared norm of every position.
    """

    def __init__(
        self, site: Site, lora: LoRA, masks: TokenMask, average_over: str, keep_norms: bool
    ) -> None:
        self.site, self.lora, self.masks = site, lora, masks
        self.average_over, self.keep_norms = average_over, keep_norms
        self.called = False  # since it was last set to False
        self.of_batch, self.constant = (Moment(lora.rank, lora.lora_A.device) for _ in range(2))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self.masks.lineage.paused():
            x, mask, constant = self.masks.of(
                self.site, args[0] if args else next(iter(kwargs.values()))
            )
            self._add(self.constant if constant else self.of_batch, x, mask)
        self.called = True

    def _add(self, moment: Moment, x: Tensor, mask: Tensor) -> None:
        weights = (mask.to(x.device) != 0).float()  # layers may be spread over devices
        counted = weights.flatten() > 0  # (N,)
        if self.average_over == EXAMPLES:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        weights = weights.flatten()  # (N,)
        with torch.autocast(x.device.type, enabled=False):
            # a LoRA in bf16 multiplies as in training, but its products are added up in float32
            z = self.lora.down(x.flatten(0, -2)).float()  # (N, r)
            moment.sum += (z.T @ (z * weights[:, None])).to(moment.sum.device).double()
            if self.keep_norms:
                norms = ((self.lora.scaling * self._up(z[counted])) ** 2).sum(-1)
                moment.norms.append(norms.cpu())
        moment.weight += weights.sum().to(moment.weight.device)
        moment.tokens += counted.sum().to(moment.tokens.device)

    @property
    def moment(self) -> Moment:
        """That of the batches' positions, or of what is the same for all batches if there are none.

        DeBERTa's relative positions do not count, since it applies the projections of its tokens
        to them, but learned queries do.
        """
        return self.of_batch if self.of_batch.tokens > 0 else self.constant

    def mean_squared_norm(self) -> float:
        """g of Section 3."""
        moment = self.moment
        rank = torch.eye(self.lora.rank, device=self.lora.lora_B.device)
        rows = self._up(rank).detach().to(moment.sum.device).double()  # (r, d_out), B^T
        return float(self.lora.scaling**2 * torch.sum((rows @ rows.T) * moment.sum) / moment.weight)

    def _up(self, z: Tensor) -> Tensor:
        return self.lora.up(z.to(self.lora.lora_B.dtype)).float()


def sum_over_processes(meters: Iterable[MomentAccumulator]) -> None:
    """Add up the moments of all processes of torch.distributed, in one all-reduce.

    Without a process group this does nothing.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    moments = [moment for meter in meters for moment in (meter.of_batch, meter.constant)]
    parts = [part for moment in moments for part in (moment.sum, moment.weight, moment.tokens)]
    # in float64, which holds the numbers of tokens exactly
    together = torch.cat([part.flatten().to(parts[0].device, torch.float64) for part in parts])
    torch.distributed.all_reduce(together)
    for part, total in zip(parts, together.split([part.numel() for part in parts]), strict=True):
        part.copy_(total.view_as(part))


@contextmanager
def hooked(meters: Iterable[MomentAccumulator]) -> Iterator[None]:
    """Let the meters see every input of their modules inside the block."""
    handles = [meter.lora.register_forward_pre_hook(meter, with_kwargs=True) for meter in meters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled code as it was written inside the block, so that hooks are called.

    A compiled graph does not call hooks that were added later. Compiled code is kept and used again
    afterwards.
    """
    # nothing can be compiled where dynamo has not been imported, which takes seconds
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode inside the block, and restore each module's flag afterwards."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    for module in flags:
        # in eval mode on a CPU bitsandbytes repacks 4-bit weights for inference, and cannot train
        # on them any more
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.training = True
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor of a tensor, list, tuple or dictionary to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {key: to_device(value[key], device) for key in value.keys()}  # noqa: SIM118 (a BatchEncoding iterates otherwise)
    if isinstance(value, list | tuple):
        return [to_device(part, device) for part in value]
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor of a tensor, list, tuple or dictionary."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)
