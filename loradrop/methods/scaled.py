"""LoRA whose matrices several modules share and whose vectors differ: VeRA, Tied-LoRA, S2-LoRA.

    h = W x + (alpha / r) diag(v) B diag(u) A x

Shapes: u (r), v (d_out). A vector that is None is left out. A module
narrower than the shared matrices uses the first columns of A and the first rows of B, as in PEFT's
VeRA.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from loradrop.lora.layer import LoRALinear
from loradrop.lora.sites import find_sites
from loradrop.methods.lora import LoRA


class ScaledLoRALinear(LoRALinear):
    """A LoRALinear with given matrices and an optional vector behind each of them."""

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        dropout: float,
        matrices: tuple[nn.Parameter, nn.Parameter],
        u: nn.Parameter | None,
        v: nn.Parameter | None,
    ) -> None:
        super().__init__(base, rank, alpha, dropout, matrices)
        self.lora_u, self.lora_v = u, v

    def down(self, x: Tensor) -> Tensor:
        """diag(u) A x: (..., d_in) -> (..., r)."""
        z = x.to(self.lora_A.dtype) @ self.lora_A[:, : self.in_features].T
        return z if self.lora_u is None else z * self.lora_u

    def up(self, z: Tensor) -> Tensor:
        """diag(v) B z: (..., r) -> (..., d_out)."""
        h = z @ self.lora_B[: self.out_features].T
        return h if self.lora_v is None else h * self.lora_v


class ScaledLoRA(LoRA):
    """Base class of methods whose modules share matrices.

    Their rank does not compare with plain LoRA's, so they report no `lora_parameters`.
    """

    def result_fields(self) -> dict[str, Any]:
        return {}


def widest(model: nn.Module, target_modules: Iterable[str] | None) -> tuple[int, int]:
    """Return the largest d_in and the largest d_out of the target modules."""
    modules: list[Any] = [
        model.get_submodule(site.name) for site in find_sites(model, target_modules)
    ]
    return max(module.in_features for module in modules), max(
        module.out_features for module in modules
    )
