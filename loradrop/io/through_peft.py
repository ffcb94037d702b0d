"""Let PEFT load an adapter, and check that the model then holds exactly what the files hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.extras import extra
from loradrop.io.files import (
    StoredAdapter,
    write_peft_form,
)
from loradrop.io.loading import check_shape
from loradrop.io.peft_config import changes_base
from loradrop.io.state import PREFIX
from loradrop.lora.rollback import unchanged_on_error
from loradrop.lora.wrappers import clean_tensors

# what PEFT raises for files that do not fit or are damaged
PEFT_ERRORS = (
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ImportError,
    re.error,
)


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is an A or B."""
    return ".lora_A." in name or ".lora_B." in name


def load_with_peft(model: nn.Module, adapter: StoredAdapter, is_trainable: bool) -> nn.Module:
    """Put a PeftModel around a model, and check that it holds exactly the adapter's tensors."""
    with extra("peft"):
        from peft import PeftModel

    tensors = clean_tensors(model)
    given = {key.removeprefix(PREFIX): value for key, value in adapter.state.items()}
    touched = [
        tensors[name]
        for name, value in given.items()
        if check_shape(name, value, tensors.get(name))
    ]
    if changes_base(adapter.config):
        touched = list(model.parameters())
    with unchanged_on_error(model, touched), TemporaryDirectory() as scratch:
        write_peft_form(adapter.config, adapter.state, Path(scratch))
        try:
            loaded = PeftModel.from_pretrained(model, scratch, is_trainable=is_trainable)
        except PEFT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"PEFT cannot put the adapter into the model: {type(error).__name__}: {reason}"
            ) from error
        _restore_types(loaded, adapter.state)
        _check_loaded(loaded, adapter.state)
    return loaded


def _restore_types(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give A's and B's the types of the files; PEFT has made them float32, or of the
    base's type."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in state.items():
        stem, _, end = name.rpartition(".")
        parameter = parameters.get(f"{stem}.default.{end}")
        if is_lora(name) and parameter is not None and parameter.shape == value.shape:
            parameter.data = value.to(parameter.device, copy=True)


def _check_loaded(model: Any, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if PEFT has silently left out, added or changed a tensor."""
    from peft import get_peft_model_state_dict

    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = next((name for name in held if name not in state), None)
    if missing is not None:
        raise ValueError(f"the adapter's files have no {missing}, which its config promises")
    every = model.state_dict()
    for name, value in state.items():
        # embeddings that were saved with the adapter are the base's own
        there = held.get(name, every.get(name))
        if there is None:
            raise ValueError(f"the adapter does not fit the model: PEFT finds no place for {name}")
        if not torch.allclose(value.to(there), there, rtol=0, atol=0, equal_nan=True):
            raise ValueError(f"PEFT has changed {name} while loading it")
