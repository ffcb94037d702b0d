"""PEFT models, and plans for them."""

from __future__ import annotations

import torch
from conftest import FAMILIES, tiny_model
from peft import LoraConfig, get_peft_model

from loradrop.plan import SharingPlan


def wrapped(family="roberta", adapter="default", **settings):
    """A PEFT model with values in every B, in eval mode."""
    options = {"r": 4, "lora_alpha": 10, "target_modules": list(FAMILIES[family][2])} | settings
    model = get_peft_model(tiny_model(family), LoraConfig(**options), adapter_name=adapter)
    return with_values(model).eval()


def with_values(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def layers_of(model):
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "r")
    }


def measured(importance):
    return {(kind, i): g for kind, layers in importance.values.items() for i, g in layers.items()}


def plan_for(model, kept, do_share=True):
    kinds = dict.fromkeys(name.split(".")[-1] for name in layers_of(model))
    rest = tuple(i for i in range(3) if i not in kept)
    return SharingPlan(dict.fromkeys(kinds, kept), dict.fromkeys(kinds, rest), do_share, 1, 1)
