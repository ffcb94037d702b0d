"""Merge: W + (alpha / r) B A as the weight of an ordinary model, which computes the same without any LoRA."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from loradrop.lora.inject import lora_modules, set_module
from loradrop.lora.peft import adapter_name, peft_layers

UNQUANTISED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def merge(model: nn.Module, adapter: str | None = None) -> nn.Module:
    """Add every LoRA's update to its base weight, in the weight's own type, and put the base modules back, in place.

    Returns the model; of a PeftModel its base model, with `adapter` merged (None: the active one), by PEFT itself.
    Shared LoRAs are merged into each of their layers. ValueError: no LoRA, a weight that another module uses too, or base
    weights in 4 or 8 bits, to which only PEFT's merging, with its rounding, adds. TypeError: not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module or a PeftModel is needed, got {type(model).__name__}")
    layers = peft_layers(model)
    if layers:
        adapter = adapter_name(layers.values(), adapter)
        peft: Any = model
        if not hasattr(peft, "merge_and_unload"):
            raise ValueError("a PeftModel is needed: this model holds PEFT's layers, but not PEFT's merge_and_unload")
        return peft.merge_and_unload(adapter_names=[adapter])
    modules = lora_modules(model)
    if not modules:
        raise ValueError("the model holds no LoRA to merge")
    if adapter is not None:
        raise ValueError(f"adapter='{adapter}' names an adapter of a PEFT model, and this is none")
    users = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    for name, module in modules.items():
        weight = getattr(module.base, "weight", None)
        kind = getattr(weight, "dtype", "another form")
        if kind not in UNQUANTISED:
            raise ValueError(f"{name}: weights in {kind} cannot take an update; load the base unquantised")
        if users[id(weight)] > 1:
            raise ValueError(f"{name}: another module has the same weight (tied embeddings), and would change with it")
    for name, module in modules.items():
        weight = module.weight  # (d_out, d_in)
        with torch.no_grad():
            identity = torch.eye(module.in_features, device=weight.device)
            update = module.scaling * module.up(module.down(identity)).T  # (d_out, d_in)
            weight.copy_((weight.to(update.dtype) + update).to(weight.dtype))
        set_module(model, name, module.base)
    return model
