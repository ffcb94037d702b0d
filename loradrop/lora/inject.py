"""Put LoRA into a model, find it there, and take it out again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral

from torch import nn

from loradrop.lora.bypass import check_called
from loradrop.lora.dropped import forget_dropped, note_dropped
from loradrop.lora.layer import LoRALinear
from loradrop.lora.rollback import unchanged_on_error
from loradrop.lora.sites import Site, find_sites, sites_of
from loradrop.lora.wrappers import unwrap_to_change


def add_lora(
    model: nn.Module,
    rank: int | Mapping[int, int] = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: Iterable[str] | None = None,
) -> list[Site]:
    """Wrap every target module of a model in a LoRALinear, in place, and freeze all that is not
    LoRA.

    Args:
        model: The base model. torch.compile, DataParallel and Lightning are seen through.
        rank: r of all modules, or of each layer's ({layer: rank}, for exactly the layers that have
            targets; then the scaling alpha / r differs likewise).
        alpha: The update is scaled by alpha / r.
        dropout: Of the update's input.
        target_modules: Suffixes of module names (`query`, `attention.output.dense`; with `*` for
            anything, as in `text_model.*.q_proj` of one stack), or `all-linear` for every linear
            module of the layers. None takes query and value of the model's family; where they are
            one projection with the key, that, with a warning. Modules outside the stack of layers
            (heads, poolers) are taken only where none inside it has such a name.

    Returns:
        The adapted sites.

    Raises:
        TypeError: `model` is not a module.
        ValueError: A rank or target that does not fit, whose message lists the linear modules; a
            module whose parent computes with its weight instead of calling it, or that is in two
            places; LoRA that is there already; DistributedDataParallel or sharding. The model is as
            it was.
    """

    def wrapped(site: Site, base: nn.Module) -> LoRALinear:
        own = rank.get(site.layer) if isinstance(rank, Mapping) else rank
        if not isinstance(own, Integral):
            raise ValueError(
                f"rank must be a whole number, got {own} for layer {site.layer} ({site.name})"
            )
        return LoRALinear(base, own, alpha, dropout)

    return wrap(model, target_modules, wrapped, rank if isinstance(rank, Mapping) else ())


def wrap(
    model: nn.Module,
    target_modules: Iterable[str] | None,
    wrapped: Callable[[Site, nn.Module], LoRALinear],
    ranked: Iterable[int] = (),
) -> list[Site]:
    """Replace every target module by the result of `wrapped`, in place, and freeze the rest.

    Raise ValueError if one of the layers in `ranked` has no target module.
    """
    model = unwrap_to_change(model, "call add_lora")
    if lora_modules(model):
        raise ValueError("the model holds LoRA modules already; remove them first (remove_lora)")
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError(
            "the model holds LoRA of PEFT already: go on with that, or take the base model"
        )
    sites = find_sites(model, target_modules)
    layers = sorted({site.layer for site in sites})
    if unknown := [layer for layer in ranked if layer not in layers]:
        raise ValueError(
            f"rank names {_listed(unknown)}, but the target modules are in {_listed(layers)}"
        )
    check_called(model, [site.name for site in sites])
    _check_held_once(model, sites)
    with unchanged_on_error(model):
        modules = [wrapped(site, model.get_submodule(site.name)) for site in sites]
        model.requires_grad_(False)
        forget_dropped(model.modules())
        for site, module in zip(sites, modules, strict=True):
            set_module(model, site.name, module)
    return sites


def _listed(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(repr, layers))}"


def _check_held_once(model: nn.Module, sites: Iterable[Site]) -> None:
    """Raise ValueError if a module is in two places, of which LoRA would reach the first alone."""
    modules = dict(model.named_modules(remove_duplicate=False))
    holders: dict[int, dict[tuple[int, str], str]] = {}  # by module: names, by parent and child
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        holders.setdefault(id(module), {}).setdefault((id(modules[parent]), child), name)
    for site in sites:
        places = list(holders[id(modules[site.name])].values())
        if len(places) > 1:
            raise ValueError(
                f"{site.name}: the model uses this very module as {places[1]} too, which LoRA would"
                " not reach: choose other target_modules"
            )


def remove_lora(model: nn.Module, names: Iterable[str] | None = None) -> None:
    """Put the frozen base modules back, in place.

    Args:
        model: A model that add_lora has adapted.
        names: Full names of the modules that are to lose their LoRA, which plan_of then tells from
            those that never had one; None: all of them, and nothing is left to tell.

    Raises:
        TypeError: `model` is not a module.
        ValueError: There is no LoRA at a name; or DistributedDataParallel or sharding.
    """
    everything = names is None
    model = unwrap_to_change(model, "call remove_lora")
    adapted = lora_modules(model)
    names = list(adapted if names is None else names)
    unknown = next((name for name in names if name not in adapted), None)
    if unknown is not None:
        raise ValueError(f"there is no LoRA of add_lora at {unknown}")
    for name in names:
        note_dropped(adapted[name].base, adapted[name].rank)
        set_module(model, name, adapted[name].base)
    if everything:
        forget_dropped(model.modules())


def lora_modules(model: nn.Module) -> dict[str, LoRALinear]:
    """All LoRALinear modules by name, in the model's order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)
    }


def lora_sites(model: nn.Module) -> dict[Site, LoRALinear]:
    """All LoRALinear modules by site, in the model's order."""
    adapted = lora_modules(model)
    return dict(zip(sites_of(model, list(adapted)), adapted.values(), strict=True))


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
