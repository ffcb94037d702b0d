"""LoRA: h = W x + (alpha / r) B A x, around any linear module, and putting it into or taking it out of a model.

Shapes: x (..., d_in), A (r, d_in), B (d_out, r), h (..., d_out). A is Kaiming-uniform with a = sqrt(5) and B is zero, as in
the released package of Hu et al. 2021 (arXiv 2106.09685, Section 4.1) and LoRA-drop's Appendix A.1, so that a fresh
adapter leaves the model's output unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Query and value projections by model family; the first pair that a model has is its default.
DEFAULT_TARGETS = (
    ("query", "value"),  # BERT, RoBERTa
    ("q_proj", "v_proj"),  # Llama and its relatives
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
)
ALL_LINEAR = "all-linear"  # as a target: every linear module of the stack of layers


class LoRALinear(nn.Module):
    """A frozen linear module with a trainable low-rank update next to it.

    `matrices` (A, B), where given, are used as they are instead of fresh ones: a method's own, or shared with other modules.
    """

    # of a module that uses another's A and B: what transformers' save_pretrained, which refuses shared tensors, leaves out
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
        self.base: Any = base.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.dropout = nn.Dropout(dropout)
        self.lora_A, self.lora_B = matrices or fresh_matrices(base, rank)

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    @property
    def size(self) -> int:
        """Numbers of this module's A and B, whether it shares them or not."""
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

    def down(self, x: Tensor) -> Tensor:
        """A x: (..., d_in) -> (..., r)."""
        return x.to(self.lora_A.dtype) @ self.lora_A.T

    def up(self, z: Tensor) -> Tensor:
        """B z: (..., r) -> (..., d_out)."""
        return z @ self.lora_B.T

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        update = self.up(self.down(self.dropout(x)))
        return h + (self.scaling * update).to(h.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


def fresh_matrices(base: Any, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A (r, d_in), Kaiming-uniform, and B (d_out, r), zero. ValueError: a rank that the module's width does not allow."""
    d_in, d_out = base.in_features, base.out_features
    if not 1 <= rank <= min(d_in, d_out):
        raise ValueError(f"rank must lie between 1 and {min(d_in, d_out)} for a {d_in} x {d_out} module, got {rank}")
    # float32 whatever the base's type: updates of a bf16 or 4-bit model would be lost to rounding
    options: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
    A, B = nn.Parameter(torch.empty(rank, d_in, **options)), nn.Parameter(torch.zeros(d_out, rank, **options))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return A, B


@dataclass(frozen=True)
class Site:
    """One place of a model that can hold a LoRA: its full name, module type and layer index."""

    name: str  # e.g. roberta.encoder.layer.3.attention.self.query
    module_type: str  # e.g. query
    layer: int  # e.g. 3


def add_lora(
    model: nn.Module,
    rank: int | Mapping[int, int] = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: Iterable[str] | None = None,
) -> list[Site]:
    """Wrap every target module of `model` in a LoRALinear, in place, and freeze all that is not LoRA.

    `rank` of all modules, or of each layer's ({layer: rank}; then the scaling alpha / r differs likewise). `targets` are
    suffixes of module names (`query`, `attention.output.dense`), or `all-linear` for every linear module of the layers; None
    takes query and value of the model's family. Modules outside the stack of layers (heads, poolers) are taken only where
    none inside it has such a name. Returns the adapted sites. ValueError: a rank or target that does not fit;
    the message lists the linear modules.
    """

    def wrapped(site: Site, base: nn.Module) -> LoRALinear:
        return LoRALinear(base, rank if isinstance(rank, int) else rank[site.layer], alpha, dropout)

    return wrap(model, targets, wrapped)


def wrap(model: nn.Module, targets: Iterable[str] | None, wrapped: Callable[[Site, nn.Module], LoRALinear]) -> list[Site]:
    """Replace every target module by what `wrapped` makes of it, in place, and freeze all else; see add_lora."""
    if lora_modules(model):
        raise ValueError("the model holds LoRA modules already; remove them first (remove_lora)")
    sites = find_sites(model, targets)
    model.requires_grad_(False)
    for site in sites:
        set_module(model, site.name, wrapped(site, model.get_submodule(site.name)))
    return sites


def remove_lora(model: nn.Module, names: Iterable[str] | None = None) -> None:
    """Put the frozen base modules back at the named sites (all if None), in place."""
    adapted = lora_modules(model)
    for name in list(adapted) if names is None else names:
        set_module(model, name, adapted[name].base)


def lora_modules(model: nn.Module) -> dict[str, LoRALinear]:
    """All LoRALinear modules by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def lora_sites(model: nn.Module) -> dict[Site, LoRALinear]:
    """All LoRALinear modules by site, in the model's order."""
    adapted = lora_modules(model)
    return dict(zip(sites_of(list(adapted)), adapted.values(), strict=True))


def find_sites(model: nn.Module, targets: Iterable[str] | None = None) -> list[Site]:
    """The linear modules whose names end in one of `targets`; see add_lora."""
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if targets is None:
        found = (pair for pair in DEFAULT_TARGETS if all(any(_ends(n, t) for n in linear) for t in pair))
        targets = next(found, None)
        if targets is None:
            raise ValueError(f"no default targets for {type(model).__name__}; name them (targets). {_listing(linear)}")
    targets = [targets] if isinstance(targets, str) else list(targets)
    if targets == [ALL_LINEAR]:
        return sites_of([name for name in linear if _in_stack(name)])
    if not targets:
        raise ValueError(f"targets: none are named. {_listing(linear)}")
    for target in targets:
        if not any(_ends(name, target) for name in linear):
            raise ValueError(f"targets: no linear module's name ends in '{target}'. {_listing(linear)}")
    names = [name for name in linear if any(_ends(name, target) for target in targets)]
    return sites_of([name for name in names if _in_stack(name)] or names)


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _is_linear(module: nn.Module) -> bool:
    return not isinstance(module, LoRALinear) and hasattr(module, "in_features") and hasattr(module, "out_features")


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _listing(linear: Iterable[str]) -> str:
    """The linear modules there are, layers folded together."""
    kinds = dict.fromkeys(_split(name)[0] for name in linear)
    return "Linear modules: " + (", ".join(kinds) or "none")


def _split(name: str) -> tuple[str, int]:
    """(name with the layer index replaced by *, layer index); a module outside the stack of layers is layer 0."""
    parts = name.split(".")
    position = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if position is None:
        return name, 0
    return ".".join("*" if i == position else part for i, part in enumerate(parts)), int(parts[position])


def _in_stack(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def sites_of(names: list[str]) -> list[Site]:
    """Sites with the shortest module types that tell the kinds of modules apart (query; encoder.q and decoder.q)."""
    kinds = dict.fromkeys(_split(name)[0] for name in names)
    for length in range(1, max((kind.count(".") + 2 for kind in kinds), default=1)):
        types = {kind: ".".join(kind.split(".")[-length:]) for kind in kinds}
        if len(set(types.values())) == len(kinds):
            break
    return [Site(name, types[_split(name)[0]], _split(name)[1]) for name in names]
