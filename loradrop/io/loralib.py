"""Checkpoints of microsoft/LoRA (loralib): `<module>.lora_A` (r, d_in) and `<module>.lora_B` (d_out, r), and often a head.

They are what `loralib.lora_state_dict(model)` holds, saved by torch.save; a run's adapter.safetensors has the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from loradrop.io.state import attach, load_head


def load_loralib(
    model: nn.Module, checkpoint: str | Path | Mapping[str, Tensor], alpha: float, dropout: float = 0.0
) -> None:
    """Put a checkpoint's LoRA into its base model as LoRALinear, in place; its other tensors, a head's, are copied.

    `checkpoint`: a file of torch.save or safetensors, or the tensors by name. `alpha` is not in it: it is what the model
    was made with (lora_alpha of loralib.Linear). What the checkpoint holds trains, all else is frozen. FileNotFoundError.
    ValueError: no LoRA in the checkpoint, another model's, or a fused projection (loralib.MergedLinear).
    """
    state = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    names = [name.removesuffix(".lora_A") for name in state if name.endswith(".lora_A")]
    if not names:
        raise ValueError("the checkpoint holds no '<module>.lora_A'")
    matrices = {}
    for name in names:
        A, B = state.pop(f"{name}.lora_A"), state.pop(f"{name}.lora_B", None)
        if B is None or B.dim() != 2 or B.shape[1] != A.shape[0]:
            raise ValueError(
                f"{name}: its lora_B does not belong to A {tuple(A.shape)} as in loralib.Linear (a MergedLinear?)"
            )
        matrices[name] = (A, B)
    attach(model, matrices, dict.fromkeys(matrices, alpha), dropout)
    load_head(model, state)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
