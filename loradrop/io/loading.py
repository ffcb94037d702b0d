"""Put tensors into a model as LoRA. Everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.io.files import Matrices
from loradrop.lora.dropped import forget_dropped
from loradrop.lora.inject import lora_modules, set_module
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import peft_layers
from loradrop.lora.rollback import unchanged_on_error
from loradrop.lora.wrappers import clean_modules, clean_tensors


def install(
    model: nn.Module,
    matrices: Matrices,
    alphas: Mapping[str, float],
    dropout: float,
    others: Mapping[str, Tensor],
    remedy: str = "",
) -> None:
    """Wrap the named modules in LoRALinear, copy the other tensors, and freeze everything else, in
    place.

    A and B keep their types. Other tensors (a head's) take the model's type for them; parameters
    among them train.

    Args:
        model: A base model, without LoRA; wrappers inside it are seen through.
        matrices: A (r, d_in) and B (d_out, r) by module.
        alphas: alpha by module.
        dropout: Of all modules.
        others: Other tensors by name.
        remedy: What the user can do with tensors that only PEFT can load, for the message.

    Raises:
        ValueError: Something does not fit. The model is as it was.
    """
    check_bare(model)
    modules, tensors = clean_modules(model), clean_tensors(model)
    for name, pair in matrices.items():
        _check_matrices(name, pair, modules.get(name, ("", None))[1], remedy)
    _check_others(tensors, others, remedy)
    with unchanged_on_error(model):
        model.requires_grad_(False)
        forget_dropped(model.modules())
        for name, (A, B) in matrices.items():
            actual, base = modules[name]
            device = next(iter((*base.parameters(), *base.buffers()))).device
            # of their own, whatever memory the tensors share
            own = (nn.Parameter(A.to(device, copy=True)), nn.Parameter(B.to(device, copy=True)))
            set_module(model, actual, LoRALinear(base, len(A), alphas[name], dropout, own))
    for name, value in others.items():
        with torch.no_grad():
            tensors[name].copy_(value)
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].requires_grad_(True)


def check_bare(model: nn.Module) -> None:
    """Raise ValueError if the model holds LoRA already."""
    if lora_modules(model) or peft_layers(model):
        raise ValueError(
            "the model holds LoRA modules already; remove them first (remove_lora), or take the"
            " base model"
        )


def _check_matrices(name: str, pair: tuple[Tensor, Tensor], base: Any, remedy: str) -> None:
    """Raise ValueError if a module cannot hold an A and B."""
    check_pair(name, *pair)
    A, B = pair
    misfit = "the adapter does not fit the model: "
    if base is None:
        raise ValueError(f"{misfit}it has no linear module {name}")
    if not hasattr(base, "in_features"):
        raise ValueError(
            f"{name} is a {type(base).__name__}, which only PEFT adapts"
            + (f": {remedy}" if remedy else "")
        )
    if A.dim() != 2 or (A.shape[1], *B.shape) != (base.in_features, base.out_features, A.shape[0]):
        raise ValueError(
            f"{misfit}A {tuple(A.shape)} and B {tuple(B.shape)} are not those of the "
            f"{base.in_features} x {base.out_features} module {name}"
        )
    if not 1 <= A.shape[0] <= min(base.in_features, base.out_features):
        raise ValueError(
            f"{misfit}rank {A.shape[0]} at the {base.in_features} x {base.out_features} module"
            f" {name}"
        )


def check_pair(name: str, A: Tensor, B: Tensor) -> None:
    """Raise ValueError if A and B are not matrices of one floating-point type."""
    if A.dim() < 2 or B.dim() < 2:
        raise ValueError(f"{name}: A {tuple(A.shape)} and B {tuple(B.shape)} are not matrices")
    if A.dtype != B.dtype or not A.is_floating_point():
        raise ValueError(
            f"{name}: A in {A.dtype} and B in {B.dtype}; one floating-point type is needed"
        )


def check_shape(name: str, value: Tensor, tensor: Tensor | None) -> bool:
    """Return whether the model has this tensor. Raise ValueError if its shape or type differs."""
    if tensor is None:
        return False
    misfit = "the adapter does not fit the model: "
    if tensor.shape != value.shape:
        embeds = any(part in name for part in ("embed", "lm_head", "wte"))
        resize = " (if tokens were added: model.resize_token_embeddings first)" if embeds else ""
        raise ValueError(
            f"{misfit}it has no {name} of shape {tuple(value.shape)}, its own is"
            f" {tuple(tensor.shape)}{resize}"
        )
    if tensor.is_floating_point() != value.is_floating_point():
        raise ValueError(
            f"{misfit}{name} is {value.dtype} in the files and {tensor.dtype} in the model"
        )
    return True


def _check_others(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], remedy: str) -> None:
    """Raise ValueError if the model lacks a tensor, or ties it to one that would change with it."""
    twins: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        twins.setdefault(memory(tensor), []).append(name)
    for name, value in others.items():
        if not check_shape(name, value, tensors.get(name)):
            raise ValueError(
                f"the adapter does not fit the model: it has no {name} of shape"
                f" {tuple(value.shape)}"
            )
        tensor = tensors[name]
        for twin in twins[memory(tensor)]:
            if not torch.equal(others.get(twin, tensor).to(tensor), value.to(tensor)):
                hint = "untie them" if not remedy else "use as_peft=True, or untie them"
                raise ValueError(f"{name} would change {twin}, to which the model ties it: {hint}")


def memory(tensor: Tensor) -> tuple[int, int]:
    """Return a key that tied tensors have in common: the place of their values in memory.

    A tensor without values (on the meta device) is only equal to itself.
    """
    place = tensor.data_ptr()
    return (place, tensor.numel()) if place else (id(tensor), -1)
