"""Tied-LoRA: all layers share one LoRA, and vectors tell the layers apart.

    h = W x + (alpha / r) diag(v) B diag(u) A x

Renduchintala et al. 2024, arXiv 2311.09578. A (r, d_in) and B are tied over all layers; each layer
trains u (r) and v. The adapted modules of a layer count as one module, like the paper's fused
projection of query, key and value: they share A and u, and each uses its own rows of B and v.
Query and value of RoBERTa-base at rank 56 have r d + 2 d r + L (r + 2 d) = 148,128 parameters.
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
    """One LoRA for all layers.

    A is Kaiming-uniform and B is zero as in LoRA, so a fresh adapter leaves the output unchanged.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        vectors: Whether to train u and v, which start at 1. Without them, A and B alone are tied.
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
        As: dict[str, nn.Parameter] = {}  # a single one, under the key A
        Bs: dict[str, nn.Parameter] = {}  # by module type
        us: dict[int, nn.Parameter] = {}  # by layer

        def ones(size: int, base: Any) -> nn.Parameter:
            return nn.Parameter(torch.ones(size, dtype=torch.float32, device=base.weight.device))

        def wrapped(site: Site, base: Any) -> ScaledLoRALinear:
            fresh = fresh_matrices(base, self.rank)
            A, B = As.setdefault("A", fresh[0]), Bs.setdefault(site.module_type, fresh[1])
            if A.shape[1] != base.in_features:
                raise ValueError(
                    "target_modules: Tied-LoRA treats a layer's modules as one, so they need "
                    f"inputs of one width; {site.name} has {base.in_features}, "
                    f"the first has {A.shape[1]}"
                )
            u = us.setdefault(site.layer, ones(self.rank, base)) if self.vectors else None
            v = ones(base.out_features, base) if self.vectors else None
            return ScaledLoRALinear(base, self.rank, self.alpha, self.dropout, (A, B), u, v)

        wrap(model, self.target_modules, wrapped)
