"""Where LoRA sits: the linear modules that can hold one, by module type and layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from loradrop.lora.layer import LoRALinear
from loradrop.lora.wrappers import clean_names

# Query and value projections by model family; the first pair that a model has is its default.
DEFAULT_TARGETS = (
    ("query", "value"),  # BERT, RoBERTa
    ("q_proj", "v_proj"),  # Llama and its relatives
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
)
ALL_LINEAR = "all-linear"  # as a target: every linear module of the stack of layers


@dataclass(frozen=True)
class Site:
    """One place of a model that can hold a LoRA: its full name, module type and layer index."""

    name: str  # e.g. roberta.encoder.layer.3.attention.self.query
    module_type: str  # e.g. query
    layer: int  # e.g. 3


def find_sites(model: nn.Module, target_modules: Iterable[str] | None = None) -> list[Site]:
    """The linear modules whose names end in one of `target_modules`; see add_lora."""
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if target_modules is None:
        found = (pair for pair in DEFAULT_TARGETS if all(any(_ends(n, t) for n in linear) for t in pair))
        target_modules = next(found, None)
        if target_modules is None:
            raise ValueError(
                f"no default targets for {type(model).__name__}; name them (target_modules). {_listing(model, linear)}"
            )
    target_modules = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    stack = [name for name in linear if _stack_number(model, name) is not None]
    if target_modules == [ALL_LINEAR]:
        if not stack:
            raise ValueError(f"target_modules: no layer has a linear module. {_listing(model, linear)}")
        return sites_of(model, stack)
    if not target_modules:
        raise ValueError(f"target_modules: none are named. {_listing(model, linear)}")
    for target in target_modules:
        if not any(_ends(name, target) for name in linear):
            other = next((type(module).__name__ for name, module in model.named_modules() if _ends(name, target)), None)
            what = f" ('{target}' is a {other})" if other else ""
            raise ValueError(f"target_modules: no linear module's name ends in '{target}'{what}. {_listing(model, linear)}")
    names = [name for name in linear if any(_ends(name, target) for target in target_modules)]
    return sites_of(model, [name for name in names if name in stack] or names)


def _is_linear(module: nn.Module) -> bool:
    return not isinstance(module, LoRALinear) and hasattr(module, "in_features") and hasattr(module, "out_features")


def _ends(name: str, suffix: str) -> bool:
    """Whether a name ends in a suffix, in which * stands for anything (`text_model.*.q_proj`)."""
    if "*" in suffix:
        return fnmatchcase(name, suffix) or fnmatchcase(name, "*." + suffix)
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
    clean = clean_names(model)
    split = {name: split_name(model, name) for name in names}
    split = {n: (_without_wrappers(n, kind, clean), layer) for n, (kind, layer) in split.items()}
    kinds = dict.fromkeys(kind for kind, _ in split.values())
    for length in range(1, max((kind.count(".") + 2 for kind in kinds), default=1)):
        types = {kind: ".".join(kind.split(".")[-length:]) for kind in kinds}
        if len(set(types.values())) == len(kinds):
            break
    return [Site(name, types[kind], layer) for name, (kind, layer) in split.items()]


def _without_wrappers(name: str, kind: str, clean: Mapping[str, str]) -> str:
    """A module's kind without the parts of its name that wrappers of its layers add (a compiled layer's `_orig_mod`)."""
    parts = name.split(".")
    steps = [clean[".".join(parts[:i])] for i in range(len(parts) + 1)]
    return ".".join(part for part, before, after in zip(kind.split("."), steps, steps[1:], strict=False) if before != after)
