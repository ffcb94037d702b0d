"""Checkpoints of microsoft/LoRA (loralib): `<module>.lora_A` (r, d_in) and `<module>.lora_B`
(d_out, r), and often a head.

They are what `loralib.lora_state_dict(model)` holds, saved by torch.save. A run's
adapter.safetensors has the same names.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from loradrop.io.files import read_tensors
from loradrop.io.loading import install
from loradrop.lora.wrappers import unwrap_to_store

A_END, B_END = ".lora_A", ".lora_B"


def load_loralib(
    model: nn.Module,
    checkpoint: str | Path | Mapping[str, Tensor],
    alpha: float,
    dropout: float = 0.0,
) -> None:
    """Put a checkpoint's LoRA into its base model as LoRALinear, in place, and copy its other
    tensors (a head, biases).

    What the checkpoint holds trains, all else is frozen. A and B keep their types. Everything is
    checked first: after an error the model is as it was.

    Args:
        model: The base model, without LoRA. Wrappers are seen through.
        checkpoint: A file of torch.save or safetensors, or the tensors by name.
        alpha: What the model was made with (lora_alpha of loralib.Linear); the checkpoint does not
            hold it.
        dropout: Of the input of every LoRA, in [0, 1).

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: `model` is not a module.
        ValueError: A damaged file, no LoRA in the checkpoint, another model's, a fused projection
            (loralib.MergedLinear), a tensor that would change another one that is tied to it, or a
            model that is wrapped in DistributedDataParallel or sharded.
    """
    inside = unwrap_to_store(model, "call load_loralib")
    state = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    wrong = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise ValueError(
            f"the checkpoint holds a {type(state[wrong]).__name__} at {wrong}; tensors by name are"
            " needed"
        )
    names = [name.removesuffix(A_END) for name in state if name.endswith(A_END)]
    if not names:
        raise ValueError("the checkpoint holds no '<module>.lora_A'")
    matrices = {}
    for name in names:
        A, B = state.pop(name + A_END), state.pop(name + B_END, None)
        if B is None or A.dim() != 2 or B.dim() != 2 or B.shape[1] != A.shape[0]:
            raise ValueError(
                f"{name}: its lora_B does not belong to A {tuple(A.shape)} as in loralib.Linear (a"
                " MergedLinear?)"
            )
        matrices[name] = (A, B)
    install(inside, matrices, dict.fromkeys(matrices, alpha), dropout, state)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}; tensors by name are needed")
    return dict(state)
