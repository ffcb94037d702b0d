"""A model's LoRA as PEFT's config and tensors, and tensors put into a model as LoRA."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.inject import lora_modules, set_module
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import PeftLoRA, adapted_sites, configs, peft_layers

PREFIX = "base_model.model."  # PEFT's, before every name of the base model's


def adapter_state(model: nn.Module, adapter: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(PEFT's LoraConfig as JSON values, tensors by PEFT's names); tensors that are shared stand under each name.

    ValueError: see interchange.save_pretrained.
    """
    first = next(iter(adapted_sites(model, adapter).values()))
    config, state = _of_peft(model, first.adapter) if isinstance(first, PeftLoRA) else _of_own(model)
    # through PEFT's own encoding of enums and sets
    plain = json.loads(
        json.dumps(config.to_dict(), default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    )
    return plain, {name if name.startswith(PREFIX) else PREFIX + name: tensor for name, tensor in state.items()}


def attach(
    model: nn.Module, matrices: Mapping[str, tuple[Tensor, Tensor]], alphas: Mapping[str, float], dropout: float
) -> None:
    """Wrap the named modules in LoRALinear with the given A (r, d_in) and B (d_out, r), in place, and freeze all else.

    ValueError: LoRA that is there already, a name that the model has no linear module of, or matrices of another shape.
    """
    if lora_modules(model) or peft_layers(model):
        raise ValueError("the model holds LoRA modules already; remove them first (remove_lora), or take the base model")
    modules = dict(model.named_modules())
    for name, (A, B) in matrices.items():
        base = modules.get(name)
        if type(base).__name__ == "Conv1D":
            raise ValueError(f"{name} is a Conv1D, which only PEFT adapts: as_peft=True")
        if base is None or not hasattr(base, "in_features"):
            raise ValueError(f"the adapter does not fit the model: it has no linear module {name}")
        if (A.shape[1], *B.shape) != (base.in_features, base.out_features, A.shape[0]):
            raise ValueError(
                f"the adapter does not fit the model: A {tuple(A.shape)} and B {tuple(B.shape)} are not those of the "
                f"{base.in_features} x {base.out_features} module {name}"
            )
    model.requires_grad_(False)
    for name, pair in matrices.items():
        base = modules[name]
        # float32 as in add_lora; A and B of their own, whatever memory the tensors share
        A, B = (nn.Parameter(part.to(base.weight.device, torch.float32, copy=True)) for part in pair)
        set_module(model, name, LoRALinear(base, len(A), alphas[name], dropout, (A, B)))


def load_head(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into other tensors of the model; its parameters among them train.

    ValueError: a tensor that the model has not, or that it ties to one which would change with it (embeddings).
    """
    # under each name of those that are tied, as lm_head.bias and lm_head.decoder.bias are
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in state.items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise ValueError(f"the adapter does not fit the model: it has no {name} of shape {tuple(value.shape)}")
    told = {id(tensors[name]) for name in state}
    for name, tensor in tensors.items():
        if id(tensor) in told and name not in state:
            twin = next(other for other in state if tensors[other] is tensor)
            if not torch.equal(state[twin].to(tensor), tensor):
                raise ValueError(f"{twin} would change {name}, to which the model ties it: use as_peft=True, or untie them")
    for name, value in state.items():
        with torch.no_grad():
            tensors[name].copy_(value)
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].requires_grad_(True)


def _of_own(model: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    from peft import LoraConfig

    modules = lora_modules(model)
    for name, module in modules.items():
        if type(module) is not LoRALinear:
            raise ValueError(
                f"{name}: the update of a {type(module).__name__} is no plain LoRA's, which PEFT's LoRA could hold"
            )
    heads = list(_trainable_modules(model))
    rank, alpha = (
        Counter(values).most_common(1)[0][0] for values in zip(*((m.rank, m.alpha) for m in modules.values()), strict=True)
    )
    config = LoraConfig(
        r=rank,
        lora_alpha=_number(alpha),
        lora_dropout=next(iter(modules.values())).dropout.p,
        # whole names: no other module's ends in one
        target_modules=list(modules),
        rank_pattern={name: module.rank for name, module in modules.items() if module.rank != rank},
        alpha_pattern={name: _number(module.alpha) for name, module in modules.items() if module.alpha != alpha},
        modules_to_save=heads or None,
        inference_mode=True,
        base_model_name_or_path=getattr(getattr(model, "config", None), "name_or_path", None) or None,
    )
    config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    state: dict[str, Tensor] = {}
    for name, module in modules.items():
        state |= {f"{name}.lora_A.weight": module.lora_A, f"{name}.lora_B.weight": module.lora_B}
    for head in heads:
        state |= {f"{head}.{name}": tensor for name, tensor in model.get_submodule(head).state_dict().items()}
    return config, state


def _of_peft(model: nn.Module, adapter: str) -> tuple[Any, dict[str, Tensor]]:
    from peft import get_peft_model_state_dict

    config = deepcopy(configs(model)[adapter])
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = getattr(getattr(model, "config", None), "name_or_path", None) or None
    return config, get_peft_model_state_dict(model, adapter_name=adapter)


def _trainable_modules(model: nn.Module, name: str = "") -> Iterator[str]:
    """The largest modules besides LoRA all of whose parameters train. ValueError: a parameter trains in none of them."""
    if isinstance(model, LoRALinear):
        return
    parameters = list(model.parameters())
    holds_lora = any(isinstance(module, LoRALinear) for module in model.modules())
    if parameters and not holds_lora and all(parameter.requires_grad for parameter in parameters):
        yield name
        return
    for own, parameter in model.named_parameters(recurse=False):
        if parameter.requires_grad:
            raise ValueError(f"{name}.{own} trains though not all of its module does: PEFT's files hold whole modules")
    for child, module in model.named_children():
        yield from _trainable_modules(module, f"{name}.{child}".strip("."))


def _number(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha
