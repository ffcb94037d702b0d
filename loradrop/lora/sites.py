"""The linear modules that can hold a LoRA, by module type and layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from loradrop.lora.layer import LoRALinear
from loradrop.lora.notes import note
from loradrop.lora.tree import ModuleTree, split_names

# Query and value projections by model family; the first pair that a model has is its default.
DEFAULT_TARGETS = (
    ("query", "value"),  # BERT, RoBERTa, ELECTRA
    ("q_proj", "v_proj"),  # Llama and its relatives, BART, ViT, Swin
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
    ("q", "v"),  # T5, MPNet
    ("q_lin", "v_lin"),  # DistilBERT, XLM
    ("q_head", "v_head"),  # Funnel
    ("to_q", "to_v"),  # diffusers
)
# Query, key and value in one projection; for models that have none of the pairs.
# GPT-NeoX, ModernBERT, Phi-3, BLIP, GPT-2
FUSED_TARGETS = ("query_key_value", "Wqkv", "qkv_proj", "qkv", "c_attn")
ALL_LINEAR = "all-linear"  # as a target: every linear module of the stack of layers


@dataclass(frozen=True)
class Site:
    """One place of a model that can hold a LoRA: its full name, module type and layer index."""

    name: str  # e.g. roberta.encoder.layer.3.attention.self.query
    module_type: str  # e.g. query
    layer: int  # e.g. 3


def as_list(target_modules: Iterable[str] | str | None) -> list[str] | None:
    """Return targets as a list. One name may be given alone; None stands for the default."""
    if isinstance(target_modules, str):
        return [target_modules]
    return None if target_modules is None else list(target_modules)


def find_sites(model: nn.Module, target_modules: Iterable[str] | None = None) -> list[Site]:
    """Find the linear modules that will hold LoRA.

    Args:
        model: The base model.
        target_modules: As for add_lora.

    Returns:
        Their sites, in the model's order. A warning tells if the default is one fused projection of
        query, key and value.

    Raises:
        ValueError: No module fits a target. The message lists the linear modules.
    """
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    targets = as_list(target_modules)
    if targets is None:
        targets = list(_default_targets(model, linear))
    tree = ModuleTree(model)
    stack = {name for name in linear if tree.stack_number(name) is not None}
    if targets == [ALL_LINEAR]:
        if not stack:
            raise ValueError(
                f"target_modules: no layer has a linear module. {_listing(model, linear)}"
            )
        return sites_of(model, [name for name in linear if name in stack])
    if not targets:
        raise ValueError(f"target_modules: none are named. {_listing(model, linear)}")
    for target in targets:
        if not any(_ends(name, target) for name in linear):
            other = next(
                (
                    type(module).__name__
                    for name, module in model.named_modules()
                    if _ends(name, target)
                ),
                None,
            )
            what = f" ('{target}' is a {other})" if other else ""
            raise ValueError(
                f"target_modules: no linear module's name ends in '{target}'{what}."
                f" {_listing(model, linear)}"
            )
    names = [name for name in linear if any(_ends(name, target) for target in targets)]
    return sites_of(model, [name for name in names if name in stack] or names)


def _default_targets(model: nn.Module, linear: Iterable[str]) -> tuple[str, ...]:
    """Query and value of the model's family; or its fused projection, with a warning."""
    names = list(linear)
    for targets in (*DEFAULT_TARGETS, *((fused,) for fused in FUSED_TARGETS)):
        if all(any(_ends(name, target) for name in names) for target in targets):
            if targets[0] in FUSED_TARGETS:
                note(
                    f"{type(model).__name__}: query, key and value are one projection,"
                    f" {targets[0]}: it has one LoRA a layer"
                )
            return targets
    every = dict(model.named_modules())
    for fused in FUSED_TARGETS:
        found = next((module for name, module in every.items() if _ends(name, fused)), None)
        if found is not None:
            raise ValueError(
                f"{fused} is a {type(found).__name__}, which PEFT adapts: get_peft_model(model,"
                f" LoraConfig(target_modules=['{fused}'])), then measure and share"
            )
    raise ValueError(
        f"no default targets for {type(model).__name__}; name them (target_modules)."
        f" {_listing(model, names)}"
    )


def _is_linear(module: nn.Module) -> bool:
    return (
        not isinstance(module, LoRALinear)
        and hasattr(module, "in_features")
        and hasattr(module, "out_features")
    )


def _ends(name: str, suffix: str) -> bool:
    """Whether a name ends in a suffix, in which * stands for anything (`text_model.*.q_proj`)."""
    if "*" in suffix:
        return fnmatchcase(name, suffix) or fnmatchcase(name, "*." + suffix)
    return name == suffix or name.endswith("." + suffix)


def _listing(model: nn.Module, linear: Iterable[str]) -> str:
    """The names of all linear modules, with one name for all layers."""
    tree = ModuleTree(model)
    kinds = dict.fromkeys(tree.split(name)[0] for name in linear)
    return "Linear modules: " + (", ".join(kinds) or "none")


def sites_of(model: nn.Module, names: Iterable[str]) -> list[Site]:
    """Return the sites of modules, with the shortest module types that tell them apart.

    Args:
        model: The model that holds them.
        names: Full names of the modules.

    Returns:
        A site for each, in order; module types are `query`, or `encoder.q` and `decoder.q`.
    """
    places = split_names(model)
    split = {name: places[name] for name in names}
    kinds = dict.fromkeys(kind for kind, _ in split.values())
    for length in range(1, max((kind.count(".") + 2 for kind in kinds), default=1)):
        types = {kind: ".".join(kind.split(".")[-length:]) for kind in kinds}
        if len(set(types.values())) == len(kinds):
            break
    return [Site(name, types[kind], layer) for name, (kind, layer) in split.items()]
