"""Adapters as files: PEFT's form, which PeftModel.from_pretrained loads, or a compact one that
stores a shared LoRA once.

    PEFT's form   adapter_config.json, adapter_model.safetensors: a LoRA for each layer, shared ones
    written out compact form  compact_config.json (the same config), compact_model.safetensors:
                  every Parameter once; the other names that stand for it are in the file's metadata
    both          plan.json: which layers share (selection.SharingPlan)

Names of tensors are PEFT's: `base_model.model.<module>.lora_A.weight` (r, d_in) and
`.lora_B.weight` (d_out, r). Wrappers (torch.compile, DataParallel, Lightning) leave no trace in
them. The same adapter gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loradrop.io.files import (
    COMPACT_FORM,
    PEFT_FORM,
    PLAN,
    Matrices,
    StoredAdapter,
    read_adapter,
    write_tensors,
)
from loradrop.io.loading import check_bare, check_pair, install
from loradrop.io.peft_config import AS_PEFT, check_complete, check_plain, pattern_value
from loradrop.io.state import PREFIX, adapter_state
from loradrop.io.through_peft import is_lora, load_with_peft
from loradrop.lora.sites import sites_of
from loradrop.lora.wrappers import clean_modules, unwrap_to_store
from loradrop.sharing import check_stored_plan, plan_of, share

A_END, B_END = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Saved:
    """What save_pretrained has written."""

    folder: Path
    file: str  # of the weights
    lora_parameters: int  # numbers of A's and B's in it
    head_parameters: int  # numbers of other modules that train
    bytes: int  # of that file

    def __str__(self) -> str:
        head = f" and {self.head_parameters:,} of other modules" if self.head_parameters else ""
        return (
            f"{self.folder / self.file}: {self.lora_parameters:,} numbers of LoRA{head},"
            f" {self.bytes:,} bytes"
        )


def save_pretrained(
    model: nn.Module, folder: str | Path, adapter: str | None = None, compact: bool = False
) -> Saved:
    """Write a model's LoRA and its other trained modules (a head) into a folder.

    Args:
        model: A model with LoRA of add_lora or of PEFT. Wrappers around it or inside it are seen
            through.
        folder: Where to write; it is made. The files lie in `folder` itself.
        adapter: Which adapter of a PEFT model; None: the active one.
        compact: Store each shared LoRA once, in a form that only from_pretrained reads.

    Returns:
        What was written and how large it is.

    Raises:
        ValueError: No LoRA; a method whose update is not a plain LoRA update (VeRA); a trainable
            parameter of an otherwise frozen module, which PEFT's files cannot hold; sharded
            parameters; an adapter of the other form in the folder; and as for plan_of. Nothing is
            written then.
    """
    inside = unwrap_to_store(model)
    config, state = adapter_state(inside, adapter)
    plan = plan_of(inside, adapter)
    folder = Path(folder)
    (config_name, weights_name), other = (
        (COMPACT_FORM, PEFT_FORM) if compact else (PEFT_FORM, COMPACT_FORM)
    )
    present = [name for name in other if (folder / name).exists()]
    if present:
        raise ValueError(
            f"{folder} holds an adapter of the other form ({', '.join(present)}): give another"
            " folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shared = _repeated(state) if compact else {}
    stored = {name: tensor for name, tensor in state.items() if name not in shared}
    metadata = {"shared": json.dumps(shared)} if compact else {"format": "pt"}
    write_tensors(stored, folder / weights_name, metadata)
    (folder / config_name).write_text(
        json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
    )
    plan.save(folder / PLAN)
    lora = sum(tensor.numel() for name, tensor in stored.items() if is_lora(name))
    total = sum(tensor.numel() for tensor in stored.values())
    return Saved(folder, weights_name, lora, total - lora, (folder / weights_name).stat().st_size)


def from_pretrained(
    model: nn.Module, folder: str | Path, as_peft: bool = False, is_trainable: bool = True
) -> nn.Module:
    """Put an adapter of either form, or any LoRA that PEFT has saved, into its base model, in
    place.

    With a plan, shared layers use the same Parameters again. A and B keep the types that the files
    hold. Everything is checked first: after an error the model is as it was.

    Args:
        model: The base model, without LoRA. Wrappers are seen through, except with `as_peft`.
        folder: What save_pretrained or PEFT has written.
        as_peft: Put a PeftModel around the model, which also holds what LoRALinear cannot: DoRA,
            trained biases, convolutions, embeddings.
        is_trainable: Whether what the files hold trains; all else is frozen.

    Returns:
        The model with LoRALinear modules, or with `as_peft` a PeftModel around it.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        TypeError: `model` is not a module.
        ValueError: A damaged file, an adapter of another model, or one that is not plain LoRA
            (without `as_peft`), a model that holds LoRA already, or one that is wrapped in
            DistributedDataParallel or sharded.
    """
    inside = unwrap_to_store(model, "call from_pretrained")
    if as_peft and inside is not model:
        raise ValueError("as_peft=True puts a PeftModel around the model: load first, then wrap")
    check_bare(inside)
    adapter = read_adapter(Path(folder))
    try:
        return _load(model, inside, adapter, as_peft, is_trainable)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _load(
    model: nn.Module, inside: nn.Module, adapter: StoredAdapter, as_peft: bool, is_trainable: bool
) -> nn.Module:
    matrices, others = _split(adapter.state)
    if adapter.plan is not None:
        planned = _of_modules(matrices, adapter.config)
        modules = clean_modules(inside)
        unknown = next((name for name in planned if name not in modules), None)
        if unknown is not None:
            raise ValueError(
                f"the adapter does not fit the model: it has no linear module {unknown}"
            )
        sites = sites_of(inside, [modules[name][0] for name in planned])
        check_stored_plan(
            adapter.plan,
            {
                (site.module_type, site.layer): pair
                for site, pair in zip(sites, planned.values(), strict=True)
            },
        )
    if as_peft:
        loaded = load_with_peft(inside, adapter, is_trainable)
    else:
        loaded = model
        _install(inside, adapter.config, matrices, others)
    if adapter.plan is not None:
        share(loaded, adapter.plan)
    return loaded if is_trainable else loaded.requires_grad_(False)


def _of_modules(matrices: Matrices, config: Mapping[str, Any]) -> Matrices:
    """Leave out the LoRA of bare parameters (MoE experts), which is not in a plan."""
    owners = tuple(
        {parameter.rpartition(".")[0] for parameter in config.get("target_parameters") or ()}
    )
    return {
        name: pair
        for name, pair in matrices.items()
        if not name.replace(".base_layer", "").endswith(owners)
    }


def _split(state: Mapping[str, Tensor]) -> tuple[Matrices, dict[str, Tensor]]:
    """A and B of each linear module, and all other tensors, by the base model's names."""
    rest = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    if len(rest) < len(state):
        raise ValueError(f"the adapter holds a tensor twice, with and without {PREFIX}")
    names = [key.removesuffix(end) for key in rest for end in (A_END, B_END) if key.endswith(end)]
    matrices = {}
    for name in dict.fromkeys(names):
        A, B = rest.pop(name + A_END, None), rest.pop(name + B_END, None)
        if A is None or B is None:
            raise ValueError(
                f"the adapter's files have {'no A' if A is None else 'an A'} and"
                f" {'no B' if B is None else 'a B'} for {name}"
            )
        check_pair(name, A, B)
        matrices[name] = (A, B)
    return matrices, rest


def _install(
    model: nn.Module, config: Mapping[str, Any], matrices: Matrices, others: Mapping[str, Tensor]
) -> None:
    check_plain(config)
    unknown = next((name for name in others if "lora_" in name), None)
    if unknown is not None:
        raise ValueError(
            f"the adapter holds more than A's and B's of linear modules: {unknown}; {AS_PEFT}"
        )
    check_complete(model, config, matrices, others)
    alphas = {name: _alpha(config, name, len(A)) for name, (A, _) in matrices.items()}
    install(model, matrices, alphas, config.get("lora_dropout", 0.0), others, remedy="as_peft=True")


def _alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """A module's alpha; rsLoRA's scaling is alpha / sqrt(r) instead of alpha / r."""
    alpha = pattern_value(config, "lora_alpha", name)
    return alpha * rank**0.5 if config.get("use_rslora") else alpha


def _repeated(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Map each tensor that shares its memory with an earlier one to that one's name."""
    first: dict[tuple[Any, ...], str] = {}
    places = {
        name: (tensor.device, tensor.data_ptr(), tensor.shape) for name, tensor in state.items()
    }
    for name, place in places.items():
        first.setdefault(place, name)
    return {name: first[place] for name, place in places.items() if first[place] != name}
