"""A finished run's model: the backbone with the head and the adapter of the run's best epoch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from experiments import results
from experiments.config import build
from experiments.setup import load_model
from loradrop.methods.base import load_values


def restore(
    id: str, outputs: str | Path = "outputs", models: str | Path | None = None
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """(model in eval mode, tokenizer, result) of a finished run; `models` as paths.models (None: LORADROP_MODELS).

    FileNotFoundError: no such finished run, or one without weights (save_weights=false). ValueError: the pretrained weights
    are not those that the run was made with.
    """
    result = results.read(outputs, id)
    weights = results.run_folder(outputs, id) / "adapter.safetensors"
    if result is None or result["status"] != results.FINISHED or not weights.exists():
        raise FileNotFoundError(f"{weights.parent} holds no finished run with its weights")
    config = OmegaConf.create(result["config"])
    backbone, task, method = (build(group, config[group]) for group in ("backbone", "task", "method"))
    models = Path(models) if models else Path(os.environ["LORADROP_MODELS"]) if "LORADROP_MODELS" in os.environ else None
    if backbone.fingerprint(models) != result["weights_fingerprint"]:
        raise ValueError(f"the pretrained weights of {backbone.hub_id} are others than those of the run {id}")
    model, tokenizer = load_model(backbone, task, method, models, config.seed)
    method.load_state(model, {key: result[key] for key in ("importance", "plan") if result[key]})
    state = load_file(weights)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trainable != set(state):
        raise ValueError(f"{weights} does not hold the parameters of this method: {sorted(trainable ^ set(state))[:4]}")
    load_values(model, state)
    return model.eval(), tokenizer, result
