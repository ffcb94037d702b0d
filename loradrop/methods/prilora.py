"""PRILoRA: ranks that grow with the layer, and A pruned again and again (Benedek and Wolf 2024, arXiv 2401.11316).

Ranks: r_l = r_s + (r_f - r_s) (l - 1) / (L - 1) for layer l = 1..L, rounded to nearest, the same for all modules of a layer.
Pruning: every N steps the entries of A with the lowest S_jk = |A_jk| n_k are set to zero, n_k the moving average over steps
of the L2 norm of input feature k over a batch's tokens (padding left out).

The paper's text could not be read: ranks and score are from its summary; which entries are compared, the average's
coefficient and N are switches whose defaults are guesses (experiments/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.token_masks import holds_tokens
from loradrop.lora.inject import add_lora, lora_modules
from loradrop.lora.layer import LoRALinear
from loradrop.lora.sites import find_sites
from loradrop.methods.base import one_of
from loradrop.methods.lora import LoRA

PRUNING = ("importance", "random", "none")
SCOPES = ("row", "matrix")
MATRICES = ("A", "B")


class PRILoRA(LoRA):
    """Switches, among them the paper's ablations:

    rank_first, rank_last  of the first and the last layer; exchanged they are the inverted ranks
    pruning          by `importance`, at `random`, or `none`
    matrix           that is pruned: A, or B by the norms of its inputs A x
    ratio            share that is pruned, in (0, 1)
    scope            which entries are compared: those of a `row` (as Wanda does), or of the whole `matrix`
    interval         optimiser steps between prunings
    decay            of the moving average of the input norms
    regrow           whether a pruned entry may grow again until the next pruning, or stays zero for good
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
    ) -> None:
        super().__init__(name, min(rank_first, rank_last), alpha, dropout, target_modules)
        one_of("pruning", pruning, PRUNING)
        one_of("matrix", matrix, MATRICES)
        one_of("scope", scope, SCOPES)
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must lie in (0, 1), got {ratio}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1 step, got {interval}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.rank_first, self.rank_last = rank_first, rank_last
        self.pruning, self.matrix, self.ratio, self.scope = pruning, matrix, ratio, scope
        self.interval, self.decay, self.regrow = interval, decay, regrow
        self.norms: dict[
            str, Tensor
        ] = {}  # by module: moving average of the L2 norm of each input feature
        self.masks: dict[
            str, Tensor
        ] = {}  # by module: True where an entry was kept at the last pruning
        self.attention_mask: Tensor | None = None  # (batch, tokens) of the batch under way
        self.metered: set[str] = (
            set()
        )  # modules of this step; checkpointed activations would be seen twice

    def adapt(self, model: nn.Module) -> None:
        layers = sorted({site.layer for site in find_sites(model, self.target_modules)})
        ranks = dict(
            zip(layers, linear_ranks(self.rank_first, self.rank_last, len(layers)), strict=True)
        )
        add_lora(model, ranks, self.alpha, self.dropout, self.target_modules)
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
            inputs = (
                (x if self.matrix == "A" else module.down(x)).float().flatten(0, -2)
            )  # (tokens, features)
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
                importance = (
                    weight.abs() * self.norms[name]
                    if self.pruning == "importance"
                    else torch.rand_like(weight)
                )
                self.masks[name] = keep_largest(importance, self.ratio, self.scope)
            if name in self.masks and (prunes or not self.regrow):
                self.masks[name] = self.masks[name].to(weight.device)
                weight.mul_(self.masks[name])

    def result_fields(self) -> dict[str, Any]:
        return {}  # its ranks are not one of plain LoRA's

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms, "masks": self.masks}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.norms, self.masks = dict(state.get("norms", {})), dict(state.get("masks", {}))


def linear_ranks(first: int, last: int, layers: int) -> list[int]:
    """Ranks from the first to the last layer, rounded to nearest (halves up)."""
    return [
        math.floor(first + (last - first) * layer / max(1, layers - 1) + 0.5)
        for layer in range(layers)
    ]


def keep_largest(importance: Tensor, ratio: float, scope: str) -> Tensor:
    """Mask that leaves out the floor(ratio * n) least important entries of each row, or of the matrix."""
    flat = importance if scope == "row" else importance.flatten()
    lowest = flat.sort(dim=-1, stable=True).indices[..., : int(ratio * flat.shape[-1])]
    return torch.ones_like(flat, dtype=torch.bool).scatter_(-1, lowest, False).view_as(importance)
