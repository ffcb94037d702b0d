"""Tied-LoRA: one LoRA for all layers, with vectors that tell the layers apart (Renduchintala et al. 2024, arXiv 2311.09578).

    h = W x + (alpha / r) diag(v) B diag(u) A x

A (r, d_in) and B are tied over all layers; each layer trains u (r) and v. The adapted modules of a layer are taken as one
module, as the paper does with the fused projection of query, key and value: they share A and u, and their B and v
are the rows that belong to them. Query and value of RoBERTa-base at rank 56: r d + 2 d r + L (r + 2 d) = 148,128.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loradrop.lora.inject import wrap
from loradrop.lora.layer import fresh_matrices
from loradrop.lora.sites import Site
from loradrop.methods.scaled import ScaledLoRA, ScaledLoRALinear


class TiedLoRA(ScaledLoRA):
    """`vectors`: whether u and v are there (both start at 1); without them A and B alone are tied.

    A is Kaiming-uniform and B zero, as LoRA's, so the output is unchanged at first.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        vectors: bool,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        self.vectors = vectors

    def adapt(self, model: nn.Module) -> None:
        As: dict[str, nn.Parameter] = {}  # one
        Bs: dict[str, nn.Parameter] = {}  # by module type
        us: dict[int, nn.Parameter] = {}  # by layer

        def ones(size: int, base: Any) -> nn.Parameter:
            return nn.Parameter(torch.ones(size, dtype=torch.float32, device=base.weight.device))

        def wrapped(site: Site, base: Any) -> ScaledLoRALinear:
            fresh = fresh_matrices(base, self.rank)
            A, B = As.setdefault("A", fresh[0]), Bs.setdefault(site.module_type, fresh[1])
            if A.shape[1] != base.in_features:
                raise ValueError(
                    f"target_modules: Tied-LoRA takes a layer's modules as one, so they need inputs of one width; "
                    f"{site.name} has {base.in_features}, the first has {A.shape[1]}"
                )
            u = us.setdefault(site.layer, ones(self.rank, base)) if self.vectors else None
            v = ones(base.out_features, base) if self.vectors else None
            return ScaledLoRALinear(base, self.rank, self.alpha, self.dropout, (A, B), u, v)

        wrap(model, self.target_modules, wrapped)
