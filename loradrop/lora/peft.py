"""The LoRA of a PEFT model by site, as `measure` and `share` see any LoRA.

Torch only: a model can hold PEFT's layers only where PEFT has been imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from torch import nn

from loradrop.lora.dropped import note_dropped
from loradrop.lora.inject import lora_modules, lora_sites, set_module
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft_layer import PeftLoRA, check_initial, is_of_parameter, plain_lora
from loradrop.lora.sites import Site, sites_of

LoRA = LoRALinear | PeftLoRA


def adapted_sites(model: nn.Module, adapter: str | None = None) -> dict[Site, LoRA]:
    """Find all LoRA of a model by site, its own or PEFT's, in the model's order.

    If the model has LoRA in linear modules, LoRA that PEFT has put on bare parameters (experts) is
    left out; see skipped_parameters.

    Args:
        model: A model with LoRA.
        adapter: Which adapter of a PEFT model; None: the active one.

    Raises:
        TypeError: `model` is not a module.
        ValueError: No LoRA, no such adapter, several active ones, or a kind of LoRA whose update is
            not B A x (DoRA and other variants, PiSSA, a bias, embeddings, convolutions).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module or a PeftModel is needed, got {type(model).__name__}")
    layers, own = peft_layers(model), lora_modules(model)
    if layers and own:
        raise ValueError("the model holds LoRA of its own and of PEFT: use one of the two")
    if layers:
        adapter = adapter_name(layers.values(), adapter)
        for _, by_name in peft_parts(model):
            check_initial(by_name.get(adapter))
        of_adapter = {name: layer for name, layer in layers.items() if adapter in _adapters(layer)}
        # experts' parameters, which PEFT adapts without a module; where there is nothing else, they
        # are refused
        modules = {
            name: layer for name, layer in of_adapter.items() if not is_of_parameter(layer)
        } or of_adapter
        found = {name: plain_lora(name, layer, adapter) for name, layer in modules.items()}
        return dict(zip(sites_of(model, list(found)), found.values(), strict=True))
    kinds = sorted(
        {str(getattr(c.peft_type, "value", c.peft_type)) for c in configs(model).values()}
    )
    if kinds:
        raise ValueError(
            f"the PEFT adapter of the model is {', '.join(kinds)}; LoRA-drop needs LoRA"
        )
    if not own:
        raise ValueError(
            "the model holds no LoRA: call add_lora first, or give a PeftModel with LoRA"
        )
    if adapter is not None:
        raise ValueError(f"adapter='{adapter}' names an adapter, but this is not a PEFT model")
    return dict(lora_sites(model))


def peft_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's LoRA layers by name."""
    peft = sys.modules.get("peft.tuners.lora.layer")
    return (
        {}
        if peft is None
        else {n: m for n, m in model.named_modules() if isinstance(m, peft.LoraLayer)}
    )


def skipped_parameters(model: nn.Module, adapter: str | None = None) -> list[str]:
    """Name the parameters with LoRA that adapted_sites leaves out: PEFT adapts them without a
    linear module (MoE experts).

    Args:
        model: A model with LoRA.
        adapter: As for adapted_sites.
    """
    layers = peft_layers(model)
    adapter = adapter_name(layers.values(), adapter) if layers else None
    found = {
        name: layer
        for name, layer in layers.items()
        if is_of_parameter(layer) and adapter in _adapters(layer)
    }
    # several parameters of one module are wrapped into each other
    return [
        f"{name.replace('.base_layer', '')}.{layer.parameter_name}" for name, layer in found.items()
    ]


def configs(model: nn.Module) -> dict[str, Any]:
    """PEFT's config of each adapter of the model, {} for any other model."""
    return next((by_name for _, by_name in peft_parts(model)), {})


def adapter_name(layers: Iterable[Any], adapter: str | None) -> str:
    """Return the named adapter, or the only active one. Raise ValueError if there is none."""
    layers = list(layers)
    present = list(dict.fromkeys(name for layer in layers for name in _adapters(layer)))
    if adapter is None:
        active = [
            name for name in present if any(name in layer.active_adapters for layer in layers)
        ]
        if len(active) == 1:
            return active[0]
        raise ValueError(
            f"{len(active)} adapters are active; name one of {', '.join(present)} (adapter=...)"
        )
    if adapter not in present:
        raise ValueError(f"the model has no LoRA adapter '{adapter}'; it has {', '.join(present)}")
    return adapter


@contextmanager
def activated(model: nn.Module, loras: Collection[LoRA]) -> Iterator[None]:
    """Use a PEFT adapter inside the block, and put the active adapters back afterwards.

    An adapter that is active already stays beside the others; any other is used alone, with its own
    copies of the modules that it trains (modules_to_save).

    Raises:
        ValueError: The model's adapters are disabled, or another one is merged into the weights, so
            that a layer would not see the inputs of training.
    """
    peft = [lora for lora in loras if isinstance(lora, PeftLoRA)]
    if any(lora.layer.disable_adapters for lora in peft):
        raise ValueError("the model's adapters are disabled: enable them first")
    check_unmerged(model, {lora.adapter for lora in peft})
    if all(lora.adapter in lora.layer.active_adapters for lora in peft):
        yield
        return
    with used_alone(model, peft[0].adapter):
        yield


@contextmanager
def used_alone(model: nn.Module, adapter: str) -> Iterator[None]:
    """Let a PEFT adapter be the active one inside the block, with its own saved modules."""
    # not set_adapter, which also changes what trains
    parts: list[Any] = [m for m in model.modules() if hasattr(m, "_active_adapter")]
    before = [part._active_adapter for part in parts]
    try:
        for part in parts:
            # of a module that only other adapters train, the base's own is used
            held = (attrgetter(name)(part) for name in part.adapter_layer_names)
            part._active_adapter = adapter if any(adapter in names for names in held) else []
        yield
    finally:
        for part, names in zip(parts, before, strict=True):
            part._active_adapter = names


def check_unmerged(model: nn.Module, allowed: Collection[str]) -> None:
    """Raise ValueError if an adapter of PEFT other than these is merged into a weight."""
    for name, layer in peft_layers(model).items():
        others = sorted(set(layer.merged_adapters).difference(allowed))
        if others:
            raise ValueError(
                f"{name}: adapter '{others[0]}' is merged into the weights; unmerge it first"
            )


def remove_adapter(model: nn.Module, names: Iterable[str], adapter: str) -> None:
    """Remove an adapter from the named layers, in place.

    Its config's targets follow, so that PEFT saves what is left. A layer whose last adapter is
    removed becomes its base module again.

    Raises:
        ValueError: The adapter trains the layers' biases, which PEFT keeps beside their LoRA alone.
    """
    check_removable(model, adapter)
    config = configs(model).get(adapter)
    for name in names:
        layer: Any = model.get_submodule(name)
        note_dropped(layer.get_base_layer(), layer.r[adapter], adapter, config)
        # not delete_adapter, which would make another adapter of this layer active
        for part in (*layer.adapter_layer_names, *layer.other_param_names):
            container = getattr(layer, part)
            if adapter in container:
                del container[adapter]
        if not _adapters(layer):
            set_module(model, name, layer.get_base_layer())
    left = {
        n
        for n, layer in peft_layers(model).items()
        if adapter in _adapters(layer) and not is_of_parameter(layer)
    }
    for prefix, by_name in peft_parts(model):
        if adapter in by_name:
            own = by_name[adapter]
            own.target_modules = {n.removeprefix(prefix) for n in left if n.startswith(prefix)}
            own.layers_to_transform = own.layers_pattern = None


def check_removable(model: nn.Module, adapter: str) -> None:
    """Raise ValueError if an adapter cannot be removed from some layers alone."""
    if getattr(configs(model).get(adapter), "bias", None) == "lora_only":
        raise ValueError(
            f"adapter '{adapter}' trains the biases of its layers (bias='lora_only'), and its files"
            " would lack those of layers without LoRA: share=True, or bias='all'"
        )


def peft_parts(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Find what PEFT has adapted: the whole model, or parts of it (two towers).

    Args:
        model: Any model.

    Returns:
        For each part the prefix of its base model's module names (`base_model.model.` in a
        PeftModel), and PEFT's config of each adapter.
    """
    names = {id(module): name for name, module in model.named_modules()}
    parts: dict[int, tuple[str, dict[str, Any]]] = {}
    for module in model.modules():
        found = getattr(module, "peft_config", None)
        if isinstance(found, dict) and id(found) not in parts:  # the base model holds it as well
            base: Any = module
            base = base.get_base_model() if hasattr(base, "get_base_model") else base
            parts[id(found)] = f"{names[id(base)]}.".lstrip("."), found
    return list(parts.values())


def _adapters(layer: Any) -> list[str]:
    return [*layer.lora_A, *layer.lora_embedding_A]
