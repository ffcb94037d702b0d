"""Read and write an adapter's files, in PEFT's form or the compact one; see io.pretrained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from loradrop.checksums import CHECKSUM, check_tensors, read_json, seal_tensors
from loradrop.plan import SharingPlan

PEFT_FORM = ("adapter_config.json", "adapter_model.safetensors")
COMPACT_FORM = ("compact_config.json", "compact_model.safetensors")
PLAN = "plan.json"
Matrices = Mapping[str, tuple[Tensor, Tensor]]  # module -> A (r, d_in), B (d_out, r)


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as its files hold it."""

    folder: Path
    config: dict[str, Any]  # PEFT's
    state: dict[str, Tensor]  # all tensors by PEFT's names, shared ones under each of their names
    plan: SharingPlan | None


def read_adapter(folder: Path) -> StoredAdapter:
    """Read an adapter of either form.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        ValueError: A file is damaged, or the adapter is not LoRA.
    """
    for config_name, weights_name in (PEFT_FORM, COMPACT_FORM):
        if (folder / config_name).exists() and (folder / weights_name).exists():
            break
    else:
        forms = " and ".join(PEFT_FORM) + ", or " + " and ".join(COMPACT_FORM)
        pickled = "adapter_model.bin"
        remedy = f" ({pickled} is not read: load and save it with PEFT)"
        raise FileNotFoundError(
            f"{folder} holds no adapter: {forms}{remedy if (folder / pickled).exists() else ''}"
        )
    config = read_json(folder / config_name)
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise ValueError(
            f"{folder / config_name}: LoRA is needed, not {kind}: use PeftModel.from_pretrained"
        )
    state, metadata = read_tensors(folder / weights_name)
    try:
        shared = json.loads(metadata.get("shared", "{}"))
        state |= {name: state[first] for name, first in shared.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / weights_name} is damaged: its list of shared tensors ({error!r})"
        ) from error
    return StoredAdapter(folder, config, state, _read_plan(folder / PLAN))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged.
    """
    check_tensors(path)
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def write_tensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum. Equal tensors and metadata make equal bytes.

    Tensors that share memory are written once for each name.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, {**metadata, CHECKSUM: "0" * 64})
    seal_tensors(path)


def write_peft_form(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> None:
    """Write PEFT's two files."""
    (folder / PEFT_FORM[0]).write_text(json.dumps(config), encoding="utf-8")
    write_tensors(state, folder / PEFT_FORM[1], {"format": "pt"})


def _read_plan(path: Path) -> SharingPlan | None:
    if not path.exists():
        return None
    data = read_json(path)
    try:
        plan = SharingPlan.from_dict(data)
        parts = (plan.kept, plan.others, plan.never_adapted)
        layers = [layer for part in parts for found in part.values() for layer in found]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): without it every layer gets its own LoRA"
        ) from error
    if not isinstance(plan.share, bool) or not all(type(layer) is int for layer in layers):
        raise ValueError(
            f"{path} is damaged: `share` or a layer: without it every layer gets its own LoRA"
        )
    return plan
