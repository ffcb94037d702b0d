"""LoRA: h = W x + (alpha / r) B A x, around any linear module, and putting it into or taking it out of a model.

Shapes: x (..., d_in), A (r, d_in), B (d_out, r), h (..., d_out). A is Kaiming-uniform with a = sqrt(5) and B is zero, as in
the released package of Hu et al. 2021 (arXiv 2106.09685, Section 4.1) and LoRA-drop's Appendix A.1, so that a fresh
adapter leaves the model's output unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
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
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
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
    # GPTQ and its like have no `weight` but buffers of other names
    device = (base.weight if hasattr(base, "weight") else next(base.buffers())).device
    options: dict[str, Any] = {"dtype": torch.float32, "device": device}
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
    none inside it has such a name. Returns the adapted sites. ValueError: a rank or target that does not fit, whose
    message lists the linear modules, or LoRA that is there already; the model is then as it was. TypeError: not a module.
    """

    def wrapped(site: Site, base: nn.Module) -> LoRALinear:
        own = rank.get(site.layer) if isinstance(rank, Mapping) else rank
        if not isinstance(own, Integral):
            raise ValueError(f"rank must be a whole number, got {own} for layer {site.layer} ({site.name})")
        return LoRALinear(base, own, alpha, dropout)

    return wrap(model, targets, wrapped)


def wrap(model: nn.Module, targets: Iterable[str] | None, wrapped: Callable[[Site, nn.Module], LoRALinear]) -> list[Site]:
    """Replace every target module by what `wrapped` makes of it, in place, and freeze all else; see add_lora."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    if lora_modules(model):
        raise ValueError("the model holds LoRA modules already; remove them first (remove_lora)")
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError("the model holds LoRA of PEFT already: go on with that, or take the base model")
    sites = find_sites(model, targets)
    modules = [wrapped(site, model.get_submodule(site.name)) for site in sites]  # all, before anything is replaced
    model.requires_grad_(False)
    for site, module in zip(sites, modules, strict=True):
        set_module(model, site.name, module)
    return sites


def remove_lora(model: nn.Module, names: Iterable[str] | None = None) -> None:
    """Put the frozen base modules back at the named sites (all if None), in place. ValueError: a site without LoRA."""
    adapted = lora_modules(model)
    for name in list(adapted) if names is None else names:
        if name not in adapted:
            raise ValueError(f"there is no LoRA of add_lora at {name}")
        set_module(model, name, adapted[name].base)


def lora_modules(model: nn.Module) -> dict[str, LoRALinear]:
    """All LoRALinear modules by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def lora_sites(model: nn.Module) -> dict[Site, LoRALinear]:
    """All LoRALinear modules by site, in the model's order."""
    adapted = lora_modules(model)
    return dict(zip(sites_of(model, list(adapted)), adapted.values(), strict=True))


def find_sites(model: nn.Module, targets: Iterable[str] | None = None) -> list[Site]:
    """The linear modules whose names end in one of `targets`; see add_lora."""
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if targets is None:
        found = (pair for pair in DEFAULT_TARGETS if all(any(_ends(n, t) for n in linear) for t in pair))
        targets = next(found, None)
        if targets is None:
            raise ValueError(
                f"no default targets for {type(model).__name__}; name them (targets). {_listing(model, linear)}"
            )
    targets = [targets] if isinstance(targets, str) else list(targets)
    stack = [name for name in linear if _stack_number(model, name) is not None]
    if targets == [ALL_LINEAR]:
        if not stack:
            raise ValueError(f"targets: no layer has a linear module. {_listing(model, linear)}")
        return sites_of(model, stack)
    if not targets:
        raise ValueError(f"targets: none are named. {_listing(model, linear)}")
    for target in targets:
        if not any(_ends(name, target) for name in linear):
            other = next((type(module).__name__ for name, module in model.named_modules() if _ends(name, target)), None)
            what = f" ('{target}' is a {other})" if other else ""
            raise ValueError(f"targets: no linear module's name ends in '{target}'{what}. {_listing(model, linear)}")
    names = [name for name in linear if any(_ends(name, target) for target in targets)]
    return sites_of(model, [name for name in names if name in stack] or names)


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _is_linear(module: nn.Module) -> bool:
    return not isinstance(module, LoRALinear) and hasattr(module, "in_features") and hasattr(module, "out_features")


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _listing(model: nn.Module, linear: Iterable[str]) -> str:
    """The linear modules there are, layers folded together."""
    kinds = dict.fromkeys(split_name(model, name)[0] for name in linear)
    return "Linear modules: " + (", ".join(kinds) or "none")


def split_name(model: nn.Module, name: str) -> tuple[str, int]:
    """(name with the layer index replaced by *, layer index); a module outside the stack of layers is layer 0."""
    position = _stack_number(model, name)
    if position is None:
        return name, 0
    parts = name.split(".")
    return ".".join([*parts[:position], "*", *parts[position + 1 :]]), int(parts[position])


def _stack_number(model: nn.Module, name: str) -> int | None:
    """Which part of a module's name is its layer's number: the first that counts modules of one kind.

    Not the 0 of a pipeline of unlike modules (nn.Sequential), in which sentence-transformers puts its encoder.
    """
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            container = model.get_submodule(".".join(parts[:position]))
            kinds = [type(_unwrapped(module)) for module in container.children()]
            if isinstance(container, nn.ModuleList) or kinds.count(type(_unwrapped(container.get_submodule(part)))) > 1:
                return position
    return None


def _unwrapped(module: nn.Module) -> nn.Module:
    """What LoRA is around, ours or PEFT's."""
    return module.base if isinstance(module, LoRALinear) else getattr(module, "base_layer", module)


def sites_of(model: nn.Module, names: list[str]) -> list[Site]:
    """Sites with the shortest module types that tell the kinds of modules apart (query; encoder.q and decoder.q)."""
    split = {name: split_name(model, name) for name in names}
    kinds = dict.fromkeys(kind for kind, _ in split.values())
    for length in range(1, max((kind.count(".") + 2 for kind in kinds), default=1)):
        types = {kind: ".".join(kind.split(".")[-length:]) for kind in kinds}
        if len(set(types.values())) == len(kinds):
            break
    return [Site(name, types[kind], layer) for name, (kind, layer) in split.items()]
