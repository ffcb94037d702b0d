"""Restore the model of a finished run: the backbone with its best epoch's head and adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from experiments import results
from experiments.config.added_keys import with_added
from experiments.config.sweep import as_config
from experiments.config.validation import build
from experiments.results import Result
from experiments.runner.components import load_model
from loradrop.io.files import read_tensors
from loradrop.methods.base import Method, load_values

WEIGHTS = "adapter.safetensors"


def restore(
    id: str, outputs: str | Path = "outputs", models: str | Path | None = None
) -> tuple[nn.Module, Any, Result]:
    """Restore the model of a finished run.

    Args:
        id: The run.
        outputs: The folder of results.
        models: The folder of local models. None: LORADROP_MODELS.

    Returns:
        The model in eval mode, its tokenizer, and the run's result.

    Raises:
        FileNotFoundError: If there is no such finished run, or it has no weights
            (save_weights=false).
        ValueError: If the pretrained weights are not the run's, or the file is damaged.
    """
    config, result = finished(id, outputs, models)
    built = build(config)
    if built.backbone.fingerprint(built.models) != result.weights_fingerprint:
        raise ValueError(
            f"the pretrained weights of {built.backbone.hub_id} "
            f"are others than those of the run {id}"
        )
    model, tokenizer = load_model(built)
    load_trained(model, built.method, result, results.run_folder(outputs, id))
    return model.eval(), tokenizer, result


def finished(
    id: str, outputs: str | Path, models: str | Path | None = None
) -> tuple[DictConfig, Result]:
    """Read a finished run that has weights.

    Args:
        id: The run.
        outputs: The folder of results.
        models: The folder of local models. None: LORADROP_MODELS.

    Returns:
        Its config, with this machine's paths, and its result.

    Raises:
        FileNotFoundError: As `restore`.
    """
    result = results.finished_result(outputs, id)
    weights = results.run_folder(outputs, id) / WEIGHTS
    if result is None or not weights.exists():
        again = "" if result is None else "; delete it and run again, with save_weights=true"
        raise FileNotFoundError(f"{weights.parent} holds no finished run with its weights{again}")
    folders = {
        "models": models or os.environ.get("LORADROP_MODELS"),
        "data": os.environ.get("LORADROP_DATA"),
    }
    paths: dict[str, str | None] = {
        "outputs": str(outputs),
        "cache": str(Path(outputs) / "cache"),
    }
    paths |= {key: folder and str(folder) for key, folder in folders.items()}
    config = {**result.config, "method": with_added(result.config["method"])}
    return as_config(config, **paths), result


def load_trained(model: nn.Module, method: Method, result: Result, folder: Path) -> None:
    """Put a run's plan and trained values into a model.

    Args:
        model: The model, with `method` installed.
        method: The run's method.
        result: The run's result.
        folder: The run's folder.

    Raises:
        ValueError: If the weights are damaged, or do not fit the method.
    """
    stored = {"importance": result.importance, "plan": result.plan}
    method.load_state_dict(
        model, {key: part.model_dump(mode="json") for key, part in stored.items() if part}
    )
    try:
        state, _ = read_tensors(folder / WEIGHTS)
    except ValueError as error:
        raise ValueError(f"{error}; delete {folder} and run again") from error
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trainable != set(state):
        lost = sorted(trainable ^ set(state))[:4]
        raise ValueError(f"{folder / WEIGHTS} does not hold the parameters of this method: {lost}")
    load_values(model, state)
