"""Share: the layers that keep no own LoRA use one common LoRA for each module type, or none (LoRA-drop, Section 3).

Sharing means the same `Parameter` objects, so optimisers, data parallelism and counting see one LoRA. Query and value
have one shared LoRA each (Appendix A.1).
"""

from __future__ import annotations

import torch
from torch import nn

from loradrop.lora import LoRALinear, lora_sites, remove_lora
from loradrop.selection import Plan

INITIAL = ("first", "mean")


def share(model: nn.Module, plan: Plan, initial: str = "first") -> None:
    """Carry out a plan on a model that holds plain LoRA in the plan's layers, in place.

    `initial` value of a shared LoRA: the `first` (lowest) of its layers' A and B, or the `mean` of their A's and of their
    B's. ValueError: a plan for other module types or layers than the model's, or LoRAs of different shapes to share.
    """
    if initial not in INITIAL:
        raise ValueError(f"initial must be one of {', '.join(INITIAL)}, got '{initial}'")
    sites = {(site.module_type, site.layer): (site.name, module) for site, module in lora_sites(model).items()}
    planned = {(kind, layer) for part in (plan.kept, plan.others) for kind, layers in part.items() for layer in layers}
    if planned != set(sites):
        raise ValueError(f"the plan does not fit the model: {_difference(planned, set(sites))}")
    for kind, layers in plan.others.items():
        if plan.share:
            _tie(kind, [sites[kind, layer][1] for layer in layers], initial)
        else:
            remove_lora(model, [sites[kind, layer][0] for layer in layers])


def _tie(kind: str, modules: list[LoRALinear], initial: str) -> None:
    if not modules:
        return
    first = modules[0]
    for matrix in ("lora_A", "lora_B"):
        tensors = [getattr(module, matrix) for module in modules]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(f"{kind}: LoRAs of different shapes cannot be shared: {[tuple(t.shape) for t in tensors]}")
        if initial == "mean":
            with torch.no_grad():
                tensors[0].copy_(torch.stack(list(tensors)).mean(0))
        for module in modules[1:]:
            setattr(module, matrix, getattr(first, matrix))


def _difference(planned: set[tuple[str, int]], present: set[tuple[str, int]]) -> str:
    parts = []
    for text, keys in (("only in the plan", planned - present), ("only in the model", present - planned)):
        if keys:
            shown = ", ".join(f"{kind} {layer}" for kind, layer in sorted(keys)[:6])
            parts.append(f"{text}: {shown}{', ...' if len(keys) > 6 else ''}")
    return "; ".join(parts)
