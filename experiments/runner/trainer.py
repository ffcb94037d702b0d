"""The Lightning trainer of a stage, its progress bar and its checkpoint."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment

from experiments.runner.components import RunComponents
from loradrop.methods.base import Method
from loradrop.training.data import TaskData
from loradrop.training.module import RunModule, SequenceModule

CHECKPOINT = "checkpoint.ckpt"


def make_module(components: RunComponents, data: TaskData, method: Method | None, identity: str = "") -> RunModule:
    arguments = (components.model, data, components.recipe, method, identity)
    if components.decoding is None:
        return SequenceModule(*arguments)
    from loradrop.training.generation import GenerationModule  # of no use to runs that generate nothing

    return GenerationModule(*arguments, tokenizer=components.tokenizer, decoding=components.decoding)


class Checkpoint(ModelCheckpoint):
    """One file, rewritten every so often inside an epoch."""

    def __init__(self, folder: Path, interval: timedelta) -> None:
        name = CHECKPOINT.removesuffix(".ckpt")
        super().__init__(folder, name, train_time_interval=interval, enable_version_counter=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        # between an epoch's last batch and its validation a checkpoint would leave the validation out on resuming
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


def usable_checkpoint(checkpoint: Path, identity: str) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint and its method's state, if it is there, whole, and of the same data and weights; else (None, {})."""
    try:
        run = torch.load(checkpoint, map_location="cpu", weights_only=True)["run"]
        found, state = run["identity"], run["method"]
    except FileNotFoundError:
        return None, {}
    except Exception as error:  # whatever a damaged file leads to
        print(f"{checkpoint} cannot be read ({type(error).__name__}): starting from the beginning")
        return None, {}
    if found != identity:
        print(f"{checkpoint} is of other data or weights: starting from the beginning")
        return None, {}
    return checkpoint, state


class StageBar(RichProgressBar):
    """A progress bar that names the stage."""

    def __init__(self, stage: str) -> None:
        super().__init__(refresh_rate=5)  # reading the loss makes a GPU wait
        self.stage = stage

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.stage}, epoch {current_epoch + 1} of {self.trainer.max_epochs}"

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)  # a logger's number says nothing here
        return metrics


def make_trainer(
    components: RunComponents, stage: str, epochs: int, callbacks: Sequence[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    settings = components.config.trainer
    bars = [StageBar(stage)] if settings.progress_bar else []
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        max_epochs=epochs,
        gradient_clip_val=components.recipe.max_grad_norm,
        callbacks=[*callbacks, *bars],
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, len(components.data.train_loader())),
        enable_progress_bar=settings.progress_bar,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # no rendezvous, requeueing or checkpoints of Slurm's for a run on one device
        **options,
    )


def quieten() -> None:
    """Lightning's warnings and notes that a user of a run can do nothing about."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric"):  # the latter's: `srun` is there and not used
        warnings.filterwarnings("ignore", module=module)
