"""Check a PEFT adapter's config: is it plain LoRA, and do the files hold all that it promises?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn

from loradrop.io.files import Matrices
from loradrop.lora.peft_layer import OUT_OF_THE_BASE
from loradrop.lora.sites import ALL_LINEAR
from loradrop.lora.wrappers import clean_modules, clean_tensors

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
    """Return a module's `r` or `lora_alpha`. PEFT's patterns match the ends of names."""
    patterns = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
    found = (
        value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)
    )
    return next(found, config.get(key))


def check_complete(
    model: nn.Module, config: Mapping[str, Any], matrices: Matrices, others: Mapping[str, Tensor]
) -> None:
    """Raise ValueError if the config names a tensor that is missing, or another rank."""
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
    """The names in a module's state dict, which has no buffers that are not persistent."""
    hidden = {
        f"{name}.{buffer}".lstrip(".")
        for name, (_, part) in clean_modules(module).items()
        for buffer in part._non_persistent_buffers_set
    }
    return [name for name in clean_tensors(module) if name not in hidden]


def _saved_modules(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The modules that `modules_to_save` names, without those inside others."""
    ends = config.get("modules_to_save") or []
    found = [name for name in names if any(name == end or name.endswith(f".{end}") for end in ends)]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _targeted(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The modules that the config targets by PEFT's rules; none if it names no targets."""
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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
