"""Sparse Adapter: LoRA whose entries with the lowest scores are masked before training.

He et al. 2022, arXiv 2210.04284. The score of an entry w of A or B is SNIP's |w dL/dw|, where the
gradient is summed over the batches of a sample in eval mode, or another of the released code's
(loradrop.methods.pruning_scores). One threshold applies to all entries of all modules, and the mask
stays for the whole run (Shwai-He/SparseAdapter@b190084).

With LoRA's B = 0 every score is zero: dL/dA = B^T G = 0, and the scores of B have the factor
B = 0. The released code therefore draws A and B from N(0, 0.02^2), which is the default here. The
alternative is to score after a warm-up on the sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.criteria import lora_parameters
from loradrop.methods.base import Probe, one_of
from loradrop.methods.lora import LoRA
from loradrop.methods.pruning_scores import PRUNERS

SCOPES = ("model", "matrix")


class SparseAdapter(LoRA):
    """LoRA with a fixed mask from scores of its entries.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        sparsity: The share of the entries that is masked, in (0, 1). In the released code the
            flag of this name is the share kept.
        scope: One threshold for the whole `model`, or one for each `matrix`.
        init_std: The standard deviation of the initial A and B. None keeps LoRA's own (B = 0),
            which needs a warm-up.
        sample_ratio: The share of the training set that is scored, as a stratified sample.
        warmup_epochs: The epochs on the sample before scoring. Training continues from there, as in
            the released code.
        warmup_batch_size: The largest batch size of the warm-up.
        pruner: What scores the entries, under the released code's names: snip, mag, rand or grasp.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        sparsity: float,
        scope: str,
        init_std: float | None,
        sample_ratio: float,
        warmup_epochs: int,
        warmup_batch_size: int,
        pruner: str,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        one_of("scope", scope, SCOPES)
        one_of("pruner", pruner, PRUNERS)
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity must lie in (0, 1), got {sparsity}")
        if not 0 < sample_ratio <= 1:
            raise ValueError(f"sample_ratio must lie in (0, 1], got {sample_ratio}")
        if warmup_epochs < 0 or warmup_batch_size < 1:
            raise ValueError("warmup_epochs must not be negative, and warmup_batch_size at least 1")
        if init_std is None and warmup_epochs == 0 and pruner != "rand":
            raise ValueError(
                "with B = 0 (init_std=null) every score is zero: "
                "set init_std=0.02 or warmup_epochs=3"
            )
        if init_std is not None and not init_std > 0:
            raise ValueError(f"init_std must be positive or null, got {init_std}")
        self.sparsity, self.scope, self.init_std = sparsity, scope, init_std
        self.pruner = pruner
        self.sample_ratio = sample_ratio
        self.warmup_epochs = warmup_epochs
        self.warmup_batch_size = warmup_batch_size
        self.masks: dict[str, Tensor] = {}  # by parameter: True for kept entries
        self.inactive = 0

    def adapt(self, model: nn.Module) -> None:
        super().adapt(model)
        sizes = []
        for parameter in lora_parameters(model).values():
            sizes.append(parameter.numel())
            if self.init_std is not None:
                nn.init.normal_(parameter, std=self.init_std)
        counted = sizes if self.scope == "matrix" else [sum(sizes)]
        self.inactive = sum(masked_entries(size, self.sparsity, self.scope) for size in counted)
        if self.inactive >= sum(sizes):
            raise ValueError(f"sparsity {self.sparsity} leaves none of {sum(sizes):,} entries")

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        rows = probe.sample(self.sample_ratio)
        if self.warmup_epochs:
            probe.fit(model, rows, self.warmup_epochs, self.warmup_batch_size)
        scores = PRUNERS[self.pruner](model, probe, rows)
        self._apply(model, keep_largest(scores, self.sparsity, self.scope))

    def _apply(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Set masked entries to zero and mask their gradients.

        Masked gradients do not count for clipping and move nothing, so the entries stay zero.
        """
        self.masks = dict(masks)
        for name, parameter in lora_parameters(model).items():
            with torch.no_grad():
                parameter.mul_(self.masks[name].to(parameter.device))
            parameter.register_hook(
                lambda gradient, name=name: gradient * self._mask(name, gradient.device)
            )

    def _mask(self, name: str, device: torch.device) -> Tensor:
        if self.masks[name].device != device:
            self.masks[name] = self.masks[name].to(device)
        return self.masks[name]

    def result_fields(self) -> dict[str, Any]:
        return super().result_fields() | {"inactive": self.inactive}

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if "masks" in state:  # absent for a finished run: its masked entries are saved as zeros
            self._apply(model, state["masks"])


def keep_largest(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """Mask the `masked_entries` with the smallest scores; among ties, the first ones.

    Args:
        scores: The scores by parameter name.
        sparsity: The share to mask.
        scope: `model` counts N over all parameters, `matrix` over each one.

    Returns:
        Masks by parameter name: True for a kept entry.
    """
    if scope == "matrix":
        return {
            name: _mask(score.flatten(), sparsity, scope).view_as(score)
            for name, score in scores.items()
        }
    together = _mask(torch.cat([score.flatten() for score in scores.values()]), sparsity, scope)
    parts = together.split([score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def masked_entries(entries: int, sparsity: float, scope: str) -> int:
    """Return how many of N entries are masked: as the released code, rounded up in the scope
    `model` and down in the scope `matrix`.
    """
    exact = sparsity * entries
    return math.ceil(exact) if scope == "model" else math.floor(exact)


def _mask(scores: Tensor, sparsity: float, scope: str) -> Tensor:
    mask = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(stable=True)[: masked_entries(len(scores), sparsity, scope)]] = False
    return mask
