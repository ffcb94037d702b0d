"""PRILoRA: ranks that grow with the layer, and a matrix A that is pruned repeatedly.

Benedek and Wolf 2024, arXiv 2401.11316. Ranks: r_l = r_s + (r_f - r_s) (l - 1) / (L - 1) for layer
l = 1..L, rounded to the nearest integer and the same for all modules of a layer. Pruning: every N
steps the entries of A with the lowest S_jk = |A_jk| n_k become zero, where n_k is the moving
average over steps of the L2 norm of input feature k over a batch's tokens without padding.

Its ablations: the ranks' other distributions, and pruning by magnitude |A_jk| alone, at random, or
not at all.

The paper's text was not available: ranks and score follow its summary. Which entries are compared,
the coefficient of the average and N are switches whose defaults are guesses
(experiments/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.token_masks import holds_tokens
from loradrop.lora.inject import add_lora, lora_modules, lora_sites, remove_lora
from loradrop.lora.layer import LoRALinear
from loradrop.lora.sites import find_sites
from loradrop.methods.base import one_of
from loradrop.methods.lora import LoRA

PRUNING = ("importance", "magnitude", "random", "none")
DISTRIBUTIONS = LINEAR, CONCENTRATED = "linear", "concentrated"
SCOPES = ("row", "matrix")
MATRICES = ("A", "B")


class PRILoRA(LoRA):
    """LoRA with linear ranks and repeated pruning; the switches include the paper's ablations.

    Args:
        name, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        rank_first: The rank of the first layer. Exchange it with `rank_last` for inverted ranks.
        rank_last: The rank of the last layer.
        pruning: Prune by `importance`, by `magnitude` alone, at `random`, or `none`.
        matrix: The matrix to prune: `A`, or `B` by the norms of its inputs A x.
        ratio: The share of the entries to prune, in (0, 1).
        scope: Compare the entries of a `row` (as Wanda does) or of the whole `matrix`.
        interval: The number of optimiser steps between two prunings.
        decay: The decay of the moving average of the input norms, in [0, 1).
        regrow: Whether a pruned entry may grow until the next pruning. Otherwise it stays zero.
        distribution: `linear`, or `concentrated`: the same ranks in all, but the upper half of the
            layers has rank_first + rank_last each and the lower half has no LoRA.
    """

    def __init__(
        self,
        name: str,
        rank_first: int,
        rank_last: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        pruning: str,
        matrix: str,
        ratio: float,
        scope: str,
        interval: int,
        decay: float,
        regrow: bool,
        distribution: str,
    ) -> None:
        super().__init__(name, min(rank_first, rank_last), alpha, dropout, target_modules)
        one_of("pruning", pruning, PRUNING)
        one_of("matrix", matrix, MATRICES)
        one_of("scope", scope, SCOPES)
        one_of("distribution", distribution, DISTRIBUTIONS)
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must lie in (0, 1), got {ratio}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1 step, got {interval}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.rank_first, self.rank_last = rank_first, rank_last
        self.pruning, self.matrix, self.ratio, self.scope = pruning, matrix, ratio, scope
        self.interval, self.decay, self.regrow = interval, decay, regrow
        self.distribution = distribution
        self.adapted: dict[str, LoRALinear] = {}
        # by module: the moving average of the L2 norm of each input feature
        self.norms: dict[str, Tensor] = {}
        # by module: True for entries that the last pruning kept
        self.masks: dict[str, Tensor] = {}
        self.attention_mask: Tensor | None = None  # (batch, tokens) of the current batch
        # modules seen in this step: checkpointing runs a forward pass twice
        self.metered: set[str] = set()

    def adapt(self, model: nn.Module) -> None:
        layers = sorted({site.layer for site in find_sites(model, self.target_modules)})
        ranks_of = linear_ranks if self.distribution == LINEAR else concentrated_ranks
        ranks = dict(
            zip(layers, ranks_of(self.rank_first, self.rank_last, len(layers)), strict=True)
        )
        at_least_one = {layer: max(1, rank) for layer, rank in ranks.items()}
        add_lora(model, at_least_one, self.alpha, self.dropout, self.target_modules)
        remove_lora(model, [site.name for site in lora_sites(model) if not ranks[site.layer]])
        self.adapted = lora_modules(model)
        if self.pruning == "importance":
            model.register_forward_pre_hook(self._remember_mask, with_kwargs=True)
            for name, module in lora_modules(model).items():
                module.register_forward_pre_hook(
                    lambda module, args, name=name: self._meter(name, module, args[0])
                )

    def _remember_mask(
        self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.attention_mask = kwargs.get("attention_mask")

    @torch.no_grad()
    def _meter(self, name: str, module: LoRALinear, x: Tensor) -> None:
        mask = self.attention_mask
        if (
            not module.training
            or name in self.metered
            or not (mask is None or holds_tokens(x, mask))
        ):
            return
        self.metered.add(name)
        with torch.autocast(x.device.type, enabled=False):
            inputs = x if self.matrix == "A" else module.down(x)
            inputs = inputs.float().flatten(0, -2)  # (tokens, features)
            if mask is not None:
                inputs = inputs * mask.flatten()[:, None]
            norm = torch.linalg.vector_norm(inputs, dim=0)
        old = self.norms.get(name)
        self.norms[name] = (
            norm if old is None else self.decay * old.to(norm.device) + (1 - self.decay) * norm
        )

    @torch.no_grad()
    def on_step_end(self, model: nn.Module, step: int) -> None:
        self.metered = set()
        if self.pruning == "none":
            return
        prunes = step % self.interval == 0
        for name, module in lora_modules(model).items():
            weight = getattr(module, f"lora_{self.matrix}")
            if prunes:
                scores = weight.abs()
                if self.pruning == "importance":
                    scores = scores * self.norms[name]
                elif self.pruning == "random":
                    scores = torch.rand_like(weight)
                self.masks[name] = keep_largest(scores, self.ratio, self.scope)
            if name in self.masks and (prunes or not self.regrow):
                self.masks[name] = self.masks[name].to(weight.device)
                weight.mul_(self.masks[name])

    def result_fields(self) -> dict[str, Any]:
        """Report the sparsity that is reached. Ranks differ by layer, so no plain LoRA compares."""
        if not self.masks:
            return {}
        pruned = [getattr(module, f"lora_{self.matrix}") for module in self.adapted.values()]
        zeros = sum(int((weight == 0).sum()) for weight in pruned)
        size = sum(weight.numel() for weight in pruned)
        adapter = sum(module.size for module in self.adapted.values())
        kept = "stay zero" if not self.regrow else "may grow until the next pruning"
        return {
            "notes": [
                f"PRILoRA: {zeros:,} of {size:,} entries of {self.matrix} are zero at the end "
                f"({100 * zeros / size:.1f} %, {100 * zeros / adapter:.1f} % of the adapter); "
                f"pruned entries {kept}"
            ]
        }

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms, "masks": self.masks}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.norms, self.masks = dict(state.get("norms", {})), dict(state.get("masks", {}))


def linear_ranks(first: int, last: int, layers: int) -> list[int]:
    """Return ranks from the first to the last layer, rounded to the nearest integer (halves up)."""
    return [
        math.floor(first + (last - first) * layer / max(1, layers - 1) + 0.5)
        for layer in range(layers)
    ]


def concentrated_ranks(first: int, last: int, layers: int) -> list[int]:
    """Return as many ranks in all, `first + last` for each layer of the upper half."""
    lower = layers // 2
    return [0] * lower + [first + last] * (layers - lower)


def keep_largest(importance: Tensor, ratio: float, scope: str) -> Tensor:
    """Mask the floor(ratio * n) least important entries of each row, or of the matrix."""
    flat = importance if scope == "row" else importance.flatten()
    lowest = flat.sort(dim=-1, stable=True).indices[..., : int(ratio * flat.shape[-1])]
    return torch.ones_like(flat, dtype=torch.bool).scatter_(-1, lowest, False).view_as(importance)
