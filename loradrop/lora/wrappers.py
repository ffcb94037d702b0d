"""Wrappers around models: what torch.compile, data parallelism, Accelerate and Lightning put around
a model or its parts.

Every public call sees through them, so that a wrapped model has the names, numbers and files of the
model inside. A wrapper that changes the parameters themselves (FSDP, ZeRO-3), or that already knows
them (DistributedDataParallel), is refused where that would go wrong, with the call to make before
wrapping.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

# Attributes under which wrappers hold the module they wrap: torch.compile, activation
# checkpointing, Lightning Fabric.
WRAPPED_AS = ("_orig_mod", "_checkpoint_wrapped_module", "_forward_module")


def unwrap(model: Any) -> nn.Module:
    """Return the model inside all wrappers around it; the model itself if there are none.

    Args:
        model: A module, whether wrapped or not.

    Raises:
        TypeError: It is not a module.
        ValueError: Its parameters are sharded, so that no process holds a whole A or B.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module or a PeftModel is needed, got {type(model).__name__}")
    _check_whole(model)
    while attribute := _attribute(model):
        model = dict(model.named_children())[attribute]
    return model


def unwrap_to_change(model: Any, call: str) -> nn.Module:
    """Return the model inside all wrappers, for a call that replaces parameters.

    Args:
        model: A module, whether wrapped or not.
        call: What the user should do before wrapping, for the message.

    Raises:
        TypeError: It is not a module.
        ValueError: Its parameters are sharded, or DistributedDataParallel wraps it or a part of it.
    """
    inside = unwrap(model)
    wrapper = "the model is wrapped in DistributedDataParallel, which knows its parameters by now"
    if any(isinstance(module, DistributedDataParallel) for module in (model, *model.modules())):
        raise ValueError(f"{wrapper}: {call} first")
    if _live_ddp_around(inside):
        raise ValueError(
            f"{wrapper}: {call} first, or delete that wrapper (del) and wrap the model again"
            " afterwards"
        )
    return inside


def unwrap_to_store(model: Any, call: str | None = None) -> nn.Module:
    """Return the model whose names adapter files use, also from inside a LightningModule around it.

    A LightningModule with several parts that have parameters counts as a model of its own.

    Args:
        model: A module, whether wrapped or not.
        call: As for unwrap_to_change, if the call replaces parameters.

    Raises:
        TypeError: It is not a module.
        ValueError: As for unwrap, or with `call` for unwrap_to_change.
    """
    model = unwrap(model) if call is None else unwrap_to_change(model, call)
    while _is_lightning_module(model):
        parts = [child for child in model.children() if next(child.parameters(), None) is not None]
        if len(parts) != 1 or next(model.parameters(recurse=False), None) is not None:
            break
        model = unwrap(parts[0])
    return model


def clean_names(model: nn.Module) -> dict[str, str]:
    """Map the full name of every submodule to its name without the parts of wrappers."""
    names, modules = {"": ""}, dict(model.named_modules(remove_duplicate=False))
    for name in modules:
        parent, _, child = name.rpartition(".")
        if name:
            inside_wrapper = child == _attribute(modules[parent])
            names[name] = (
                names[parent] if inside_wrapper else f"{names[parent]}.{child}".lstrip(".")
            )
    return names


def clean_modules(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return (full name, module) by clean name; for a wrapper, the module inside."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {clean: (name, modules[name]) for name, clean in clean_names(model).items()}


def clean_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers, under each of their clean names."""
    return {
        f"{clean}.{name}".lstrip("."): tensor
        for clean, (_, module) in clean_modules(model).items()
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    }


def clean_name(model: nn.Module, name: str) -> str:
    """Return the clean form of the name of a module or tensor."""
    names = clean_names(model)
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        known = names.get(".".join(parts[:end]))
        if known is not None:
            return ".".join([*([known] if known else []), *parts[end:]])
    return name


def _attribute(module: nn.Module) -> str | None:
    """The attribute in which a wrapper holds its module; None if the module is not a wrapper."""
    if (
        isinstance(module, DataParallel | DistributedDataParallel)
        or type(module).__name__ == "DeepSpeedEngine"
    ):
        return "module"
    # children, since torch.compile's wrapper passes other attributes on to the model inside
    children = dict(module.named_children())
    return next((attribute for attribute in WRAPPED_AS if attribute in children), None)


def _is_lightning_module(module: nn.Module) -> bool:
    packages = (sys.modules.get(name) for name in ("pytorch_lightning", "lightning.pytorch"))
    return any(
        package is not None and isinstance(module, package.LightningModule) for package in packages
    )


def _check_whole(model: nn.Module) -> None:
    """Raise ValueError if the parameters are sharded."""
    tensor = sys.modules.get("torch.distributed.tensor")
    fsdp = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    # frozen weights may be, around LoRA that is whole
    trained = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    sharded = tensor is not None and any(isinstance(p, tensor.DTensor) for p in trained)
    zero = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if fsdp or sharded or zero:
        kind = "ZeRO-3" if zero else "FSDP"
        raise ValueError(
            f"the model's parameters are sharded ({kind}): call add_lora, measure, share and"
            " from_pretrained before sharding; to save or merge, gather the whole state"
            " (torch.distributed.checkpoint.state_dict.get_model_state_dict with"
            " full_state_dict=True) into an unsharded copy of the model with the same LoRA"
        )


def _live_ddp_around(model: nn.Module) -> bool:
    """Whether a DistributedDataParallel that is still in memory wraps the model or something that
    holds it.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if not _ddp_holds(model):
        return False
    gc.collect()  # a wrapper that was deleted may still be there
    return _ddp_holds(model)


def _ddp_holds(model: nn.Module) -> bool:
    wrappers = [o for o in gc.get_objects() if issubclass(type(o), DistributedDataParallel)]
    return any(module is model for wrapper in wrappers for module in wrapper.modules())
