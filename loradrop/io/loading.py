"""Tensors put into a model as LoRA. Everything is checked before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.dropped import forget_dropped
from loradrop.lora.inject import lora_modules, set_module
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import OUT_OF_THE_BASE, peft_layers
from loradrop.lora.rollback import unchanged_on_error
from loradrop.lora.sites import ALL_LINEAR
from loradrop.lora.wrappers import clean_modules, clean_tensors

Matrices = Mapping[str, tuple[Tensor, Tensor]]  # module -> A (r, d_in), B (d_out, r)
AS_PEFT = "as_peft=True loads it"
# settings of PEFT's LoraConfig whose model is not W x + s B A x, or whose base is not the given one
NOT_PLAIN = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "velora_config",
    "alora_invocation_tokens",
    "monteclora_config",
    "kasa_config",
    "arrow_config",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)


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

    A and B keep their types. Other tensors, a head's, take the type that the model has for them;
    parameters among them train.

    Args:
        model: A base model, without LoRA; wrappers inside it are seen through.
        matrices: A (r, d_in) and B (d_out, r) by module.
        alphas: alpha by module.
        dropout: Of all modules.
        others: Other tensors by name.
        remedy: What else would load tensors that only PEFT can place.

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


def check_plain(config: Mapping[str, Any]) -> None:
    """Raise ValueError if PEFT's config describes more than W x + s B A x on the given base, or is
    damaged.
    """
    kinds = {
        "rank_pattern": dict,
        "alpha_pattern": dict,
        "target_modules": str | list,
        "modules_to_save": list,
    }
    for key, kind in (
        kinds | {"exclude_modules": str | list, "layers_to_transform": int | list}
    ).items():
        if not isinstance(config.get(key), kind | None):
            raise ValueError(f"the adapter's config is damaged: {key} is {config[key]!r}")
    for key in NOT_PLAIN:
        if config.get(key):
            what = "DoRA" if key == "use_dora" else f"{key}={config[key]}"
            raise ValueError(f"plain LoRA is needed, not {what}; {AS_PEFT}")
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"the adapter has trained biases of the base model (bias='{config['bias']}'); {AS_PEFT}"
        )
    if changes_base(config):
        raise ValueError(
            f"init_lora_weights='{config['init_lora_weights']}' has changed the base weights;"
            f" {AS_PEFT}"
        )
    dropout = config.get("lora_dropout", 0.0)
    alphas = [config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()]
    if not all(_is_number(alpha) and alpha > 0 for alpha in alphas):
        raise ValueError(f"the adapter's config has no positive lora_alpha: {alphas}")
    if not (_is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"the adapter's config: lora_dropout must lie in [0, 1), got {dropout}")


def changes_base(config: Mapping[str, Any]) -> bool:
    """Whether PEFT changes base weights when it makes the adapter (PiSSA and its like)."""
    initial = config.get("init_lora_weights", True)
    return isinstance(initial, str) and initial.lower().startswith(OUT_OF_THE_BASE)


def pattern_value(config: Mapping[str, Any], key: str, name: str) -> Any:
    """A module's `r` or `lora_alpha`: PEFT's patterns are ends of names."""
    patterns = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
    found = (
        value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)
    )
    return next(found, config.get(key))


def check_complete(
    model: nn.Module, config: Mapping[str, Any], matrices: Matrices, others: Mapping[str, Tensor]
) -> None:
    """Raise ValueError if a tensor that PEFT's config promises is missing, or a rank is another."""
    try:
        _check_complete(model, config, matrices, others)
    except re.error as error:
        raise ValueError(
            f"the adapter's config is damaged: a pattern of module names ({error})"
        ) from error


def _check_complete(
    model: nn.Module, config: Mapping[str, Any], matrices: Matrices, others: Mapping[str, Tensor]
) -> None:
    modules, tensors = clean_modules(model), clean_tensors(model)
    for name, (A, _) in matrices.items():
        rank = pattern_value(config, "r", name)
        if rank is not None and rank != A.shape[0]:
            raise ValueError(
                f"{name}: the adapter's config says rank {rank}, but A is {tuple(A.shape)}"
            )
    saved = _saved_modules(config, modules)
    linear = [name for name, (_, module) in modules.items() if hasattr(module, "in_features")]
    for name in _targeted(config, linear):
        if name not in matrices and not any(f"{name}.".startswith(f"{head}.") for head in saved):
            raise ValueError(
                f"the adapter's config targets {name}, but its files have no A and B for it"
            )
    given = {id(tensors[name]) for name in others if name in tensors}
    for head in saved:
        for name in _stored_tensors(modules[head][1]):
            full = f"{head}.{name}"
            if full not in others and id(tensors[full]) not in given:
                raise ValueError(
                    f"the adapter's config says that {head} is saved, but its files have no {full}"
                )


def _stored_tensors(module: nn.Module) -> list[str]:
    """Names in a module's state dict: buffers that are not persistent are not there."""
    hidden = {
        f"{name}.{buffer}".lstrip(".")
        for name, (_, part) in clean_modules(module).items()
        for buffer in part._non_persistent_buffers_set
    }
    return [name for name in clean_tensors(module) if name not in hidden]


def _saved_modules(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Modules that `modules_to_save` names, without parts of one another."""
    ends = config.get("modules_to_save") or []
    found = [name for name in names if any(name == end or name.endswith(f".{end}") for end in ends)]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _targeted(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Modules that the config targets, by PEFT's rules; none where the config does not say."""
    targets = config.get("target_modules")
    if not targets or targets == ALL_LINEAR:
        return []
    found = [name for name in names if _matches(targets, name)]
    if excluded := config.get("exclude_modules"):
        found = [name for name in found if not _matches(excluded, name)]
    layers = config.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(targets, str):
        return found
    patterns = config.get("layers_pattern") or r"[^.]*"
    either = "|".join([patterns] if isinstance(patterns, str) else patterns)
    numbers = {name: re.match(rf"(?:^|.*?\.)(?:{either})\.(\d+)\.", name) for name in found}
    wanted = {layers} if isinstance(layers, int) else set(layers)
    return [
        name
        for name, match in numbers.items()
        if name in targets or (match is not None and int(match[1]) in wanted)
    ]


def _matches(targets: str | Iterable[str], name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


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
    """Raise ValueError if A and B are no matrices of one floating-point type."""
    if A.dim() < 2 or B.dim() < 2:
        raise ValueError(f"{name}: A {tuple(A.shape)} and B {tuple(B.shape)} are no matrices")
    if A.dtype != B.dtype or not A.is_floating_point():
        raise ValueError(
            f"{name}: A in {A.dtype} and B in {B.dtype}; one floating-point type is needed"
        )


def check_shape(name: str, value: Tensor, tensor: Tensor | None) -> bool:
    """Return whether the model has a tensor of this name. Raise ValueError if it has, of another
    shape or kind.
    """
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
    """Raise ValueError if a tensor has no place in the model, or one that is tied to another which
    would change with it.
    """
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
    """What tied tensors have in common: where their values lie; of one without values (meta),
    itself.
    """
    place = tensor.data_ptr()
    return (place, tensor.numel()) if place else (id(tensor), -1)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
