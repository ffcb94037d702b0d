"""The Lightning module and trainer of a stage, its progress bar and its checkpoint."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.plugins.environments import LightningEnvironment
from rich.progress import ProgressColumn, TextColumn
from torch.nn.parallel import DistributedDataParallel

from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.validation import FSDP
from experiments.runner import processes
from experiments.runner.components import RunComponents
from loradrop.checksums import MISMATCH
from loradrop.methods.base import Method
from loradrop.training.data import TaskData
from loradrop.training.module import RunModule, SequenceModule

CHECKPOINT = "checkpoint.ckpt"
RESUMED = "went on after an interruption: seconds are those of the last process"  # a result's note
PREPARED = "prepare.ckpt"  # of a training before the run's own, as in stage 1
# a run's numbers are those of one version of each
LIBRARIES = (torch.__version__, pl.__version__, transformers.__version__)
NARROW = 80  # columns of a terminal


def make_module(
    components: RunComponents, data: TaskData, method: Method | None, identity: str = ""
) -> RunModule:
    """Make the module that trains a run's model.

    Args:
        components: The objects of the run.
        data: What to train on.
        method: The method, for its penalty and its steps; None for plain training.
        identity: From `state_identity`, stored in checkpoints.
    """
    arguments = (components.model, data, components.recipe, method, identity)
    if components.decoding is None:
        module: RunModule = SequenceModule(*arguments)
    else:
        from loradrop.training.generation import GenerationModule  # only for runs that generate

        module = GenerationModule(
            *arguments, tokenizer=components.tokenizer, decoding=components.decoding
        )
    if components.divided:  # else the first process's part would be copied to all others
        names = [f"model.{name}" for name in components.divided]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
    return module


class Checkpoint(ModelCheckpoint):
    """A single checkpoint file, rewritten at regular intervals.

    Args:
        folder: The run's folder.
        interval: The time between checkpoints.
        file: The file's name.
    """

    def __init__(self, folder: Path, interval: timedelta, file: str = CHECKPOINT) -> None:
        name = file.removesuffix(".ckpt")
        super().__init__(folder, name, train_time_interval=interval, enable_version_counter=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        # a run resumed from a checkpoint after an epoch's last batch would skip its validation
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


class SafeCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint only by a complete one. A full disk costs a checkpoint, not the run."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_write(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
            console.error(f"no checkpoint was written, training goes on: {error}")


def state_identity(components: RunComponents, *others: object) -> str:
    """What a checkpoint must agree with: data, weights, and the libraries that read its state."""
    return "-".join(
        map(str, (components.data.fingerprint, components.weights, *LIBRARIES, *others))
    )


def usable_checkpoint(checkpoint: Path, identity: str) -> tuple[Path | None, dict[str, Any]]:
    """Look for a checkpoint to continue from.

    Args:
        checkpoint: The file.
        identity: From `state_identity`, as given to `make_module`.

    Returns:
        The checkpoint and its method's state; (None, {}) if it is missing, damaged, or of another
        identity.
    """
    try:
        with zipfile.ZipFile(checkpoint) as file:  # torch.load does not compare the checksums
            if file.testzip() is not None:
                raise ValueError(MISMATCH)
        run = torch.load(checkpoint, map_location="cpu", weights_only=True)["run"]
        found, state = run["identity"], run["method"]
    except FileNotFoundError:
        return None, {}
    except Exception as error:  # a damaged file can raise anything
        console.info(f"{checkpoint} is damaged ({error}): starting from the beginning")
        return None, {}
    if found != identity:
        console.info(
            f"{checkpoint} is of other data, weights or library versions: "
            "starting from the beginning"
        )
        return None, {}
    return checkpoint, state


class StageBar(RichProgressBar):
    """A progress bar that shows the name of the stage."""

    def __init__(self, stage: str) -> None:
        super().__init__(refresh_rate=5)  # reading the loss makes the GPU wait
        self.stage = stage

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.stage}, epoch {current_epoch + 1} of {self.trainer.max_epochs}"

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        if console.terminal.width >= NARROW:
            return super().configure_columns(trainer)
        return [
            TextColumn("{task.description}"),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        ]

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        if console.terminal.width < NARROW:
            return {}
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)  # the number of the logger's folder
        return metrics


def make_trainer(
    components: RunComponents,
    stage: str,
    epochs: int,
    batches: int,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> pl.Trainer:
    """Make the trainer of a stage.

    Args:
        components: The objects of the run.
        stage: The name to show.
        epochs: The number of epochs.
        batches: The number of batches of an epoch.
        callbacks: Callbacks besides the progress bar.
        options: Further options of Lightning's Trainer.
    """
    settings = components.config.trainer
    shows = settings.progress_bar and console.shows_progress()
    bars = [StageBar(stage)] if shows else []
    return pl.Trainer(
        accelerator=settings.accelerator,
        **_devices(components),
        precision=settings.precision,
        max_epochs=epochs,
        gradient_clip_val=components.recipe.max_grad_norm,
        callbacks=[*callbacks, *bars],
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, batches),
        enable_progress_bar=shows,
        enable_model_summary=False,
        # runner.processes or torchrun has started all processes, and submitit requeues
        plugins=[LightningEnvironment(), SafeCheckpointIO()],
        **options,
    )


def _devices(components: RunComponents) -> dict[str, Any]:
    settings = components.config.trainer
    if processes.several():
        return {
            "devices": settings.devices,
            "num_nodes": settings.num_nodes,
            # fsdp: the frozen weights are divided already (sharding), the rest is DDP's
            "strategy": settings.strategy.replace("auto", "ddp").replace(FSDP, "ddp"),
            "use_distributed_sampler": False,  # loradrop.training.data divides the batches
        }
    return {"devices": [torch.cuda.current_device()] if components.device.type == "cuda" else 1}


def quieten() -> None:
    """Silence notes and warnings of Lightning about which the user can do nothing."""
    for name in (
        "pytorch_lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning_fabric",
        "torch.distributed",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in (
        "pytorch_lightning",
        "lightning_fabric",
    ):  # lightning_fabric warns that `srun` is unused
        warnings.filterwarnings("ignore", module=module)
