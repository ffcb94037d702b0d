"""Merge LoRA into the base weights: W + (alpha / r) B A becomes the weight of an ordinary model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from loradrop.io.loading import memory
from loradrop.lora.inject import lora_modules, set_module
from loradrop.lora.peft import adapter_name, check_unmerged, peft_layers, used_alone
from loradrop.lora.wrappers import unwrap_to_store

UNQUANTISED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def merge(model: nn.Module, adapter: str | None = None) -> nn.Module:
    """Add every LoRA's update to its base weight, in the weight's own type, and put the base
    modules back, in place.

    Shared LoRAs are merged into each of their layers. PEFT's layers are merged by PEFT itself.

    Args:
        model: A model with LoRA of add_lora, or a PeftModel. Wrappers are seen through.
        adapter: Which adapter of a PeftModel; None: the active one. Its other adapters are dropped.

    Returns:
        The ordinary model, without the wrappers that were around it; of a PeftModel its base model.

    Raises:
        TypeError: `model` is not a module.
        ValueError: No LoRA; a weight that another module uses too (tied embeddings), or that is
            computed (weight_norm); another adapter of PEFT that is merged already; base weights in
            4 or 8 bits, to which only PEFT's merging, with its rounding, adds; or sharded
            parameters. The model is as it was.
    """
    model = unwrap_to_store(model)
    layers = peft_layers(model)
    if layers:
        return _merge_with_peft(model, layers, adapter_name(layers.values(), adapter))
    modules = lora_modules(model)
    if not modules:
        raise ValueError("the model holds no LoRA to merge")
    if adapter is not None:
        raise ValueError(f"adapter='{adapter}' names an adapter, but this is not a PEFT model")
    _check_writable(model, modules)
    for name, module in modules.items():
        weight = module.base.weight  # (d_out, d_in)
        with torch.no_grad():
            identity = torch.eye(module.in_features, device=weight.device)
            update = module.scaling * module.up(module.down(identity)).T  # (d_out, d_in)
            # the sum in the wider of the two types: a bf16 update must not round a float32 weight
            weight.copy_((weight + update).to(weight.dtype))
        set_module(model, name, module.base)
    return model


def _merge_with_peft(model: Any, layers: Mapping[str, Any], adapter: str) -> nn.Module:
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(
            "a PeftModel is needed: this model holds PEFT's layers, but not PEFT's merge_and_unload"
        )
    merged = {
        name: layer.get_base_layer()
        for name, layer in layers.items()
        if adapter in (*layer.lora_A, *layer.lora_embedding_A)
    }
    check_untied(model, merged)
    check_unmerged(model, {adapter})
    with used_alone(model, adapter):  # or the head of the active one would be left
        return model.merge_and_unload(adapter_names=[adapter])


def _check_writable(model: nn.Module, modules: Mapping[str, Any]) -> None:
    """Raise ValueError if the weight of a module with LoRA cannot take the update."""
    for name, module in modules.items():
        weight = getattr(module.base, "weight", None)
        kind = getattr(weight, "dtype", "another form")
        if kind not in UNQUANTISED:
            raise ValueError(
                f"{name}: weights in {kind} cannot take an update; load the base unquantised"
            )
        # a subclass packs its values; what is no Parameter is made anew at each use
        if type(weight) is not nn.Parameter:
            raise ValueError(
                f"{name}: its weight is no plain parameter (weight_norm, a packed tensor), and"
                " cannot take an update: keep the LoRA unmerged, or make it one"
            )
    check_untied(model, {name: module.base for name, module in modules.items()})


def check_untied(model: nn.Module, bases: Mapping[str, nn.Module]) -> None:
    """Raise ValueError if a weight that is to be written is used by another module too.

    Args:
        model: The whole model.
        bases: The modules whose weights are to be written, by name.
    """
    users = Counter(memory(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    for name, base in bases.items():
        weight = getattr(base, "weight", None)
        if isinstance(weight, nn.Parameter) and users[memory(weight)] > 1:
            raise ValueError(
                f"{name}: another module has the same weight (tied embeddings), and would change"
                " with it; keep the LoRA unmerged, or give the module a weight of its own"
            )
