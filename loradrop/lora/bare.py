"""Linear modules without LoRA whose module types hold LoRA elsewhere in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from loradrop.lora.dropped import dropped_rank, note_dropped
from loradrop.lora.peft import LoRA, adapted_sites, configs
from loradrop.lora.sites import Site
from loradrop.lora.tree import split_names, widths

Key = tuple[str, int]  # module type, layer


def without_lora(model: nn.Module, sites: Mapping[Site, LoRA]) -> tuple[dict[Key, int], set[Key]]:
    """Find the modules without LoRA whose module types hold LoRA elsewhere.

    Args:
        model: A model with LoRA.
        sites: Where it is.

    Returns:
        The number of parameters of the LoRA that each has lost; and those that never had one.
    """
    dropped, never = {}, set()
    adapter, config = _whose(model, sites)
    for key, module in _bare_modules(model, sites).items():
        rank = dropped_rank(module, adapter, config)
        if rank is None:
            never.add(key)
        else:
            dropped[key] = rank * sum(widths(module))
    return dropped, never


def note_without_lora(model: nn.Module, adapter: str | None, others: set[Key]) -> None:
    """Note that layers have lost their LoRA, so that they do not count as never adapted.

    Args:
        model: A model with LoRA, from which a plan's other layers are missing.
        adapter: The adapter of a PEFT model; None: the active one, or LoRA of add_lora.
        others: Layers that the plan leaves without LoRA.
    """
    sites = adapted_sites(model, adapter)
    ranks = {site.module_type: lora.rank for site, lora in sites.items()}
    adapter, config = _whose(model, sites)
    for (kind, layer), module in _bare_modules(model, sites).items():
        if (kind, layer) in others and dropped_rank(module, adapter, config) is None:
            note_dropped(module, ranks[kind], adapter, config)


def _bare_modules(model: nn.Module, sites: Mapping[Site, LoRA]) -> dict[Key, nn.Module]:
    """The modules themselves; where another adapter has put LoRA around one, the module inside."""
    places = split_names(model)
    types = {places[site.name][0]: site.module_type for site in sites}
    present = {site.name for site in sites}
    found = {}
    for name, (kind, layer) in places.items():
        if kind in types and name not in present:
            module = model.get_submodule(name)
            base = getattr(module, "base_layer", module)
            if widths(base):
                found[types[kind], layer] = base
    return found


def _whose(model: nn.Module, sites: Mapping[Site, LoRA]) -> tuple[str | None, Any]:
    """The adapter of a PEFT model and its config; None for LoRA of add_lora."""
    adapter = getattr(next(iter(sites.values())), "adapter", None)
    return adapter, configs(model).get(adapter) if adapter else None
