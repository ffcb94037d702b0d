"""Linear modules without LoRA whose module types hold LoRA elsewhere in the model, or have lost
it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from loradrop.lora.dropped import dropped_rank, note_dropped
from loradrop.lora.peft import LoRA, adapted_sites, configs
from loradrop.lora.sites import Site, sites_of
from loradrop.lora.tree import split_names, widths

Key = tuple[str, int]  # module type, layer


def without_lora(model: nn.Module, sites: Mapping[Site, LoRA]) -> tuple[dict[Key, int], set[Key]]:
    """Find the modules without LoRA whose module types hold LoRA elsewhere, or have lost it.

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


def note_without_lora(
    model: nn.Module, adapter: str | None, others: set[Key], parameters: int
) -> None:
    """Note that layers have lost their LoRA, so that they do not count as never adapted.

    Args:
        model: A model with LoRA, from which a plan's other layers are missing.
        adapter: The adapter of a PEFT model; None: the active one, or LoRA of add_lora.
        others: Layers that the plan leaves without LoRA.
        parameters: Those of plain LoRA in all the plan's layers, which tell the rank of a module
            type that has no LoRA left.
    """
    sites = adapted_sites(model, adapter)
    ranks = {site.module_type: lora.rank for site, lora in sites.items()}
    adapter, config = _whose(model, sites)
    bare = {
        key: module
        for key, module in _bare_modules(model, sites, others).items()
        if key in others and dropped_rank(module, adapter, config) is None
    }
    lengths = {key: sum(widths(module)) for key, module in bare.items()}
    known = sum(lora.size for lora in sites.values())
    known += sum(ranks.get(kind, 0) * length for (kind, _), length in lengths.items())
    lost = sum(length for (kind, _), length in lengths.items() if kind not in ranks)
    rank_of_lost = (parameters - known) // max(lost, 1)
    for (kind, _), module in bare.items():
        note_dropped(module, ranks.get(kind, rank_of_lost), adapter, config)


def _bare_modules(
    model: nn.Module, sites: Mapping[Site, LoRA], others: Collection[Key] = ()
) -> dict[Key, nn.Module]:
    """The modules themselves; where another adapter has put LoRA around one, the module inside.

    Types that have no LoRA left are told by the notes on their modules, or by the names in
    `others`, if only one kind of module has such a name.
    """
    places = split_names(model)
    present = {site.name for site in sites}
    bare = {}
    for name in places:
        module = model.get_submodule(name)
        base = getattr(module, "base_layer", module)
        if name not in present and widths(base):
            bare[name] = base
    adapter, config = _whose(model, sites)
    noted = [name for name, base in bare.items() if dropped_rank(base, adapter, config) is not None]
    types = {
        places[site.name][0]: site.module_type
        for site in (*sites_of(model, [*present, *noted]), *sites)
    }
    for kind in {kind for kind, _ in others}.difference(types.values()):
        free = {places[name][0] for name in bare}.difference(types)
        whole = [found for found in free if f".{found}".endswith(f".{kind}")]
        if len(whole) == 1:
            types[whole[0]] = kind
    return {
        (types[kind], layer): bare[name]
        for name, (kind, layer) in places.items()
        if name in bare and kind in types
    }


def _whose(model: nn.Module, sites: Mapping[Site, LoRA]) -> tuple[str | None, Any]:
    """The adapter of a PEFT model and its config; None for LoRA of add_lora."""
    adapter = getattr(next(iter(sites.values())), "adapter", None)
    return adapter, configs(model).get(adapter) if adapter else None
