"""A model's LoRA as PEFT's config and tensors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from loradrop.lora.inject import lora_modules
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import adapted_sites, configs, peft_parts
from loradrop.lora.peft_layer import PeftLoRA
from loradrop.lora.wrappers import clean_name, clean_names

PREFIX = "base_model.model."  # PEFT's, before every name of the base model's


def adapter_state(
    model: nn.Module, adapter: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's LoraConfig as JSON values, and the tensors by PEFT's names.

    Shared tensors appear under each of their names. Names are those of the unwrapped model.

    Args:
        model: A model with LoRA, without wrappers around it.
        adapter: Which adapter of a PEFT model; None: the active one.

    Raises:
        ValueError: As for save_pretrained.
    """
    first = next(iter(adapted_sites(model, adapter).values()))
    config, state = (
        _of_peft(model, first.adapter) if isinstance(first, PeftLoRA) else _of_own(model)
    )
    return config, {
        name if name.startswith(PREFIX) else PREFIX + name: tensor for name, tensor in state.items()
    }


def _of_own(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = clean_names(model)
    modules = {names[name]: module for name, module in lora_modules(model).items()}
    for name, module in modules.items():
        if type(module) is not LoRALinear:
            raise ValueError(
                f"{name}: the update of a {type(module).__name__} is not a plain LoRA update, so"
                " PEFT's format cannot store it"
            )
    heads = {names[name]: model.get_submodule(name) for name in _trainable_modules(model)}
    rank, alpha = (
        Counter(values).most_common(1)[0][0]
        for values in zip(*((m.rank, m.alpha) for m in modules.values()), strict=True)
    )
    # written here, since saving must not need PEFT; what is left out has PEFT's defaults
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": type(model).__name__,
            "parent_library": type(model).__module__,
        },
        "base_model_name_or_path": _base_name(model),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": next(iter(modules.values())).dropout.p,
        "bias": "none",
        "target_modules": list(modules),  # whole names: no other module's ends in one
        "modules_to_save": list(heads) or None,
        "rank_pattern": {
            name: module.rank for name, module in modules.items() if module.rank != rank
        },
        "alpha_pattern": {
            name: _number(module.alpha) for name, module in modules.items() if module.alpha != alpha
        },
    }
    state: dict[str, Tensor] = {}
    for name, module in modules.items():
        state |= {f"{name}.lora_A.weight": module.lora_A, f"{name}.lora_B.weight": module.lora_B}
    for head, part in heads.items():
        state |= {
            f"{head}.{clean_name(part, name)}": tensor for name, tensor in part.state_dict().items()
        }
    return config, state


def _base_name(model: nn.Module) -> str | None:
    """Where the base model was loaded from."""
    return getattr(getattr(model, "config", None), "name_or_path", None) or None


def _of_peft(model: nn.Module, adapter: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from peft import get_peft_model_state_dict

    if not isinstance(getattr(model, "peft_config", None), dict):
        prefixes = (prefix for prefix, found in peft_parts(model) if adapter in found)
        parts = ", ".join(p.removesuffix("base_model.model.").rstrip(".") for p in prefixes)
        raise ValueError(
            f"the adapter belongs to a part of the model ({parts}), and PEFT's files hold nothing"
            " of what is around that: save the part itself"
        )
    config = deepcopy(configs(model)[adapter])
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = _base_name(model)
    # under the modules' own names, by which PEFT looks: checkpoint_wrapper takes its part out of
    # model.state_dict()
    every = {
        f"{name}.{own}": tensor
        for name, module in model.named_modules(remove_duplicate=False)
        for own, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    }
    state = get_peft_model_state_dict(model, every, adapter_name=adapter)
    # through PEFT's own encoding of enums and sets
    plain = json.dumps(
        config.to_dict(),
        default=lambda value: sorted(value) if isinstance(value, set) else str(value),
    )
    return json.loads(plain), {clean_name(model, name): tensor for name, tensor in state.items()}


def _trainable_modules(model: nn.Module, name: str = "") -> Iterator[str]:
    """Yield the largest modules outside LoRA whose parameters all train.

    Raises:
        ValueError: A parameter trains in none of them.
    """
    parameters = list(model.parameters())
    holds_lora = any(isinstance(module, LoRALinear) for module in model.modules())
    if parameters and not holds_lora and all(parameter.requires_grad for parameter in parameters):
        yield name
        return
    for own, parameter in model.named_parameters(recurse=False):
        if parameter.requires_grad and not isinstance(model, LoRALinear):
            raise ValueError(
                f"{name}.{own} trains though not all of its module does: PEFT's files hold whole"
                " modules"
            )
    for child, module in model.named_children():
        if isinstance(model, LoRALinear) and any(
            parameter.requires_grad for parameter in module.parameters()
        ):
            raise ValueError(
                f"{name}.{child} trains beside its LoRA, which PEFT's files do not hold: freeze it,"
                " or merge"
            )
        yield from _trainable_modules(module, f"{name}.{child}".strip("."))


def _number(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha
