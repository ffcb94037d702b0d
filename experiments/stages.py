"""What a run does between its objects and its result: prepare (stage 1), fit, describe, save."""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.config import digest
from experiments.files import claimed, replacing
from experiments.results import PREDICTIONS
from experiments.setup import Setup
from loradrop.backbones import parameter_counts
from loradrop.data import TaskData
from loradrop.importance import Importance
from loradrop.methods.base import Method, Stage1
from loradrop.modules import RunModule, SequenceModule

CHECKPOINT = "checkpoint.ckpt"
STAGE1_VERSION = 1  # to be raised when stage 1 or the measurement changes


class RunProbe:
    """The training set as a method may use it before the run (loradrop.methods.base.Probe)."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.seed: int = setup.config.seed
        self.steps = setup.steps
        self.cached: bool | None = None

    def sample(self, ratio: float) -> Sequence[int]:
        return self.setup.data.sample(ratio, self.seed)

    def fit(self, model: nn.Module, rows: Sequence[int], epochs: int, batch_size: int, steps: int | None = None) -> None:
        setup = self.setup
        data = setup.data.of_rows(rows)
        data.batch_size = min(data.batch_size, batch_size)
        module = _module(setup, data, None)
        if steps is not None:
            epochs = math.ceil(steps / len(data.train_loader()))
        options = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0, "max_steps": steps or -1}
        trainer = _trainer(setup, "stage 1", epochs, **options)
        trainer.fit(module)

    def batches(self, rows: Sequence[int], gradients: bool = False) -> Iterable[Mapping[str, Any]]:
        device = self.setup.device
        self.setup.model.to(device)  # Lightning puts a model back on the CPU when it is done
        data = self.setup.data.of_rows(rows)
        if gradients:
            data.evaluation_batch_size = data.batch_size
        for batch in data.ordered_train_loader():
            yield {key: value.to(device) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager:
        precision = self.setup.config.trainer.precision
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        return torch.autocast(self.setup.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def stage1(self, settings: Mapping[str, Any], compute: Callable[[], Stage1]) -> Stage1:
        """Computed once for all runs of one backbone, task, recipe, seed and precision: <cache>/stage1/<id>."""
        config = OmegaConf.to_container(self.setup.config, resolve=True)
        trainer = {key: config["trainer"][key] for key in ("accelerator", "precision", "num_threads")}
        recipe = {key: value for key, value in config["recipe"].items() if key != "epochs"}
        shared = {key: config[key] for key in ("backbone", "task", "seed")}
        key = {**shared, "recipe": recipe, "trainer": trainer, "stage1": dict(settings)}
        key |= {"data": self.setup.data.fingerprint, "weights": self.setup.weights, "version": STAGE1_VERSION}
        names = f"{shared['backbone']['name']}-{shared['task']['name']}-stage1-s{self.seed}"
        folder = self.folder / f"{names}-{digest(key)}"
        with claimed(folder):  # runs side by side wait for the first one's measurement
            self.cached = (folder / "importance.json").exists()
            if not self.cached:
                result = compute()
                with replacing(folder / "trained.safetensors") as path:
                    save_tensors(result.trained, path)
                with replacing(folder / "importance.json") as path:  # last: it marks the cache entry as whole
                    result.importance.save(path)
        try:
            return Stage1(Importance.load(folder / "importance.json"), load_file(folder / "trained.safetensors"))
        except (ValueError, KeyError, OSError, SafetensorError) as error:
            raise ValueError(f"{folder} is damaged ({error}); delete it and run again") from error


def fit(setup: Setup, folder: Path, logger: Any, probe: RunProbe) -> tuple[RunModule | None, dict[str, Any]]:
    """Prepare, and fine-tune on the whole training set; both from the last checkpoint where there is one.

    Returns the module, and speed and memory of training; (None, {}) for a recipe without epochs, which prepares alone.
    """
    identity = "-".join([setup.data.fingerprint, setup.weights])
    checkpoint, state = _usable(folder / CHECKPOINT, identity)
    with setup.timed("prepare"):
        if checkpoint is None:
            setup.method.prepare(setup.model, probe)
        else:
            setup.data.splits.notes.append("went on after an interruption: seconds are those of the last process")
            setup.method.load_state(setup.model, state)
    if setup.recipe.epochs == 0:
        if setup.method.report().get("importance") is None:
            raise ValueError(f"recipe.epochs=0 leaves nothing to do: method {setup.method.name} measures nothing")
        return None, {}
    with setup.timed("fit"):
        return _fit(setup, folder, logger, identity, checkpoint)


def _fit(
    setup: Setup, folder: Path, logger: Any, identity: str, checkpoint: Path | None
) -> tuple[RunModule, dict[str, Any]]:
    on_gpu = setup.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    epochs, decoding = setup.recipe.epochs, setup.decoding
    module = _module(setup, setup.data, setup.method, identity)
    checkpoints = Checkpoint(folder, timedelta(minutes=setup.config.trainer.checkpoint_minutes))
    every = 1 if decoding is None or decoding.every_epoch else epochs
    options = {"logger": logger or False, "callbacks": [checkpoints], "check_val_every_n_epoch": every}
    _trainer(setup, "training", epochs, **options).fit(module, ckpt_path=checkpoint)
    if len(module.epochs) != epochs // every:
        raise RuntimeError(f"{len(module.epochs)} epochs were scored instead of {epochs // every}")
    tokens = sum(setup.data.lengths) * setup.recipe.epochs
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory = {"process": process} | ({"gpu": torch.cuda.max_memory_allocated()} if on_gpu else {})
    return module, {"tokens_per_second": round(tokens / module.train_seconds, 1), "peak_memory_bytes": memory}


def _module(setup: Setup, data: TaskData, method: Method | None, identity: str = "") -> RunModule:
    arguments = (setup.model, data, setup.recipe, method, setup.config.seed, identity)
    if setup.decoding is None:
        return SequenceModule(*arguments)
    from loradrop.generation import GenerationModule  # of no use to runs that generate nothing

    return GenerationModule(*arguments, tokenizer=setup.tokenizer, decoding=setup.decoding)


class Checkpoint(ModelCheckpoint):
    """One file, rewritten every so often inside an epoch."""

    def __init__(self, folder: Path, interval: timedelta) -> None:
        name = CHECKPOINT.removesuffix(".ckpt")
        super().__init__(folder, name, train_time_interval=interval, enable_version_counter=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        # between an epoch's last batch and its validation a checkpoint would leave the validation out on resuming
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


def _usable(checkpoint: Path, identity: str) -> tuple[Path | None, dict[str, Any]]:
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


def _trainer(setup: Setup, stage: str, epochs: int, callbacks: Sequence[pl.Callback] = (), **options: Any) -> pl.Trainer:
    settings = setup.config.trainer
    bars = [StageBar(stage)] if settings.progress_bar else []
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        max_epochs=epochs,
        gradient_clip_val=setup.recipe.max_grad_norm,
        callbacks=[*callbacks, *bars],
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, len(setup.data.train_loader())),
        enable_progress_bar=settings.progress_bar,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # no rendezvous, requeueing or checkpoints of Slurm's for a run on one device
        **options,
    )


def describe(setup: Setup, module: RunModule | None) -> dict[str, Any]:
    """The part of a result that says what was trained and how well."""
    task, report = setup.data.task, setup.method.report()
    importance, plan = report.get("importance"), report.get("plan")
    return {
        "metrics": module
        and {
            "primary": task.primary,
            "epochs": module.epochs,
            "best": next(scores for scores in module.epochs if scores["epoch"] == module.best["epoch"]),
            "last": module.epochs[-1],
        },
        "parameters": {
            **parameter_counts(setup.model, report.get("inactive", 0)),
            "lora_parameters": report.get("lora_parameters"),
        },
        "importance": importance and importance.to_dict(),
        "plan": plan and plan.to_dict(),
        "train_rows": len(setup.data.train),
        "evaluated_on": {name: len(rows) for name, rows in setup.data.evaluation.items()},
        "notes": [
            *setup.data.splits.notes,
            *(module.notes() if module else []),
            *(plan.notes if plan else []),
            *report.get("notes", []),
        ],
        "data_fingerprint": setup.data.fingerprint,
        "weights_fingerprint": setup.weights,
    }


def save(setup: Setup, module: RunModule | None, folder: Path) -> None:
    """importance.json, plan.json and the best epoch's adapter and head, beside the result; what was generated."""
    report = setup.method.report()
    for name in ("importance", "plan"):
        if name in report:
            with replacing(folder / f"{name}.json") as path:
                report[name].save(path)
    if module is None:
        return
    if "predictions" in module.best:
        with replacing(folder / PREDICTIONS) as path:
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _predictions(setup, module)))
    if setup.config.save_weights:
        with replacing(folder / "adapter.safetensors") as path:
            save_tensors(module.best["state"], path, epoch=str(module.best["epoch"]), backbone=setup.config.backbone.name)


def _predictions(setup: Setup, module: RunModule) -> Iterator[dict[str, Any]]:
    """A line for each text that the best epoch generated: split, source, references, prediction."""
    for split, texts in module.best["predictions"].items():
        for row, text in zip(setup.data.splits.evaluation[split], texts, strict=True):
            yield {"split": split, **row, "prediction": text}


def save_tensors(state: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Safetensors; tensors that share memory are written under each name."""
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path, metadata=metadata)


def quieten() -> None:
    """Lightning's warnings and notes that a user of a run can do nothing about."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric"):  # the latter's: `srun` is there and not used
        warnings.filterwarnings("ignore", module=module)
