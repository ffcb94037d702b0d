"""Adapters as files: PEFT's form, which PeftModel.from_pretrained loads, or a compact one that stores a shared LoRA once.

    PEFT's form   adapter_config.json, adapter_model.safetensors: a LoRA for each layer, shared ones written out
    compact form  compact_config.json (the same config), compact_model.safetensors: every Parameter once; the other names
                  that stand for it are in the file's metadata
    both          plan.json: which layers share (selection.SharingPlan)

Names of tensors are PEFT's: `base_model.model.<module>.lora_A.weight` (r, d_in) and `.lora_B.weight` (d_out, r).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from loradrop.io.state import PREFIX, adapter_state, attach, load_head
from loradrop.selection import SharingPlan
from loradrop.sharing import plan_of, share

PEFT_FORM = ("adapter_config.json", "adapter_model.safetensors")
COMPACT_FORM = ("compact_config.json", "compact_model.safetensors")
PLAN = "plan.json"


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
        return f"{self.folder / self.file}: {self.lora_parameters:,} numbers of LoRA{head}, {self.bytes:,} bytes"


def save_pretrained(model: nn.Module, folder: str | Path, adapter: str | None = None, compact: bool = False) -> Saved:
    """Write a model's LoRA, and what else of it trains (a head), into a folder, which is made; see above for the files.

    `model`: with LoRA of add_lora or of PEFT, of which `adapter` (None: the active one) is written, into `folder` itself.
    ValueError: no LoRA, methods whose update is not a plain LoRA's (VeRA), a trainable parameter of an otherwise frozen
    module, which PEFT's files cannot hold, and as for plan_of.
    """
    config, state = adapter_state(model, adapter)
    plan = plan_of(model, adapter)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shared = _repeated(state) if compact else {}
    config_name, weights_name = COMPACT_FORM if compact else PEFT_FORM
    # copies: safetensors refuses tensors that share memory
    stored = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items() if name not in shared}
    save_file(stored, folder / weights_name, metadata={"format": "pt"} | ({"shared": json.dumps(shared)} if compact else {}))
    (folder / config_name).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    plan.save(folder / PLAN)
    lora = sum(tensor.numel() for name, tensor in stored.items() if is_lora(name))
    total = sum(tensor.numel() for tensor in stored.values())
    return Saved(folder, weights_name, lora, total - lora, (folder / weights_name).stat().st_size)


def from_pretrained(model: nn.Module, folder: str | Path, as_peft: bool = False, is_trainable: bool = True) -> nn.Module:
    """Put an adapter of either form, or any plain LoRA that PEFT has saved, into its base model, in place.

    Returns the model with LoRALinear modules, or with `as_peft` a PeftModel around it. With a plan, shared layers use the
    same Parameters again. What the files hold trains (`is_trainable`), all else is frozen. FileNotFoundError: no adapter in
    the folder. ValueError: one that is not a plain LoRA (DoRA), or of another model.
    """
    folder = Path(folder)
    config, state = read(folder)
    if as_peft:
        from peft import PeftModel

        with TemporaryDirectory() as scratch:
            write_peft_form(config, state, Path(scratch))
            model = PeftModel.from_pretrained(model, scratch, is_trainable=is_trainable)
    else:
        _install(model, config, state)
    if (folder / PLAN).exists():
        share(model, SharingPlan.load(folder / PLAN))
    return model if is_trainable else model.requires_grad_(False)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(PEFT's config, all tensors by PEFT's names) of an adapter of either form. Errors as for from_pretrained."""
    for config_name, weights_name in (PEFT_FORM, COMPACT_FORM):
        if (folder / config_name).exists() and (folder / weights_name).exists():
            break
    else:
        raise FileNotFoundError(f"{folder} holds no adapter: {' and '.join(PEFT_FORM)}, or {' and '.join(COMPACT_FORM)}")
    config = json.loads((folder / config_name).read_text(encoding="utf-8"))
    kind = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))
    if kind != "LORA" or config.get("lora_bias"):
        raise ValueError(f"{folder / config_name}: plain LoRA is needed, not {'a bias' if kind == 'LORA' else kind}")
    with safe_open(folder / weights_name, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
        shared = json.loads((file.metadata() or {}).get("shared", "{}"))
    return config, state | {name: state[first] for name, first in shared.items()}


def write_peft_form(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> None:
    """PEFT's two files."""
    (folder / PEFT_FORM[0]).write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / PEFT_FORM[1], {"format": "pt"})


def is_lora(name: str) -> bool:
    """Is a tensor of this name an A or B?"""
    return ".lora_A." in name or ".lora_B." in name


def _install(model: nn.Module, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    ends = (".lora_A.weight", ".lora_B.weight")
    names = [name.removesuffix(ends[0]) for name in state if name.endswith(ends[0])]
    matrices = {name: (state.pop(name + ends[0]), state.pop(name + ends[1])) for name in names}
    alphas = {name: _alpha(config, name, len(A)) for name, (A, _) in matrices.items()}
    unknown = [name for name in state if "lora_" in name]
    if unknown:
        raise ValueError(f"the adapter holds more than A's and B's of linear modules: {unknown[0]}")
    attach(model, matrices, alphas, config.get("lora_dropout", 0.0))
    load_head(model, state)


def _alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """A module's alpha: PEFT's patterns are ends of names; rsLoRA's scaling is alpha / sqrt(r) instead of alpha / r."""
    patterns = config.get("alpha_pattern") or {}
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    alpha = next(found, config["lora_alpha"])
    return alpha * rank**0.5 if config.get("use_rslora") else alpha


def _repeated(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that another one before them stands for, being the same memory."""
    first: dict[tuple[Any, ...], str] = {}
    places = {name: (tensor.device, tensor.data_ptr(), tensor.shape) for name, tensor in state.items()}
    for name, place in places.items():
        first.setdefault(place, name)
    return {name: first[place] for name, place in places.items() if first[place] != name}
