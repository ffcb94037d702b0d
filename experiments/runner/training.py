"""Prepare a method and fine-tune on the whole training set."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from experiments.common.memory import peak_memory, reset_peak_memory
from experiments.runner.components import RunComponents
from experiments.runner.probe import RunProbe
from experiments.runner.trainer import (
    CHECKPOINT,
    RESUMED,
    Checkpoint,
    make_module,
    make_trainer,
    state_identity,
    usable_checkpoint,
)
from loradrop.training.module import RunModule


def fit(
    components: RunComponents, folder: Path, logger: Any, probe: RunProbe
) -> tuple[RunModule | None, dict[str, Any]]:
    """Prepare the method and fine-tune, continuing from the last checkpoint if there is one.

    Args:
        components: The objects of the run.
        folder: The run's folder.
        logger: A Lightning logger, or None.
        probe: The method's access to the training set.

    Returns:
        The module, and speed and memory of training; (None, {}) if the recipe has no epochs.
    """
    identity = state_identity(components)
    checkpoint, state = usable_checkpoint(folder / CHECKPOINT, identity)
    with components.timed("prepare"):
        if checkpoint is None:
            components.method.prepare(components.model, probe)
        else:
            components.data.splits.notes.append(RESUMED)
            components.method.load_state_dict(components.model, state)
    if components.recipe.epochs == 0:
        return None, {}
    with components.timed("fit"):
        return _fit(components, folder, logger, identity, checkpoint)


def _fit(
    components: RunComponents, folder: Path, logger: Any, identity: str, checkpoint: Path | None
) -> tuple[RunModule, dict[str, Any]]:
    on_gpu = components.device.type == "cuda"
    reset_peak_memory()  # other runs of this process are not this one's
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    epochs, decoding = components.recipe.epochs, components.decoding
    module = make_module(components, components.data, components.method, identity)
    checkpoints = Checkpoint(
        folder, timedelta(minutes=components.config.trainer.checkpoint_minutes)
    )
    every = 1 if decoding is None or decoding.every_epoch else epochs
    options: dict[str, Any] = {
        "logger": logger or False,
        "callbacks": [checkpoints],
        "check_val_every_n_epoch": every,
    }
    trainer = make_trainer(
        components, "training", epochs, len(components.data.train_loader()), **options
    )
    trainer.fit(module, ckpt_path=checkpoint)
    if len(module.epochs) != epochs // every:
        raise RuntimeError(f"{len(module.epochs)} epochs were scored instead of {epochs // every}")
    tokens = sum(components.data.lengths) * components.recipe.epochs
    memory = {"process": peak_memory()} | (
        {"gpu": torch.cuda.max_memory_allocated()} if on_gpu else {}
    )
    return module, {
        "tokens_per_second": round(tokens / module.train_seconds, 1),
        "peak_memory_bytes": memory,
    }
