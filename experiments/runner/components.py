"""Load everything that a run needs, quick checks first. Nothing is trained here.

Does not import Lightning, which would delay messages about a user's mistake by seconds.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from experiments.config.validation import FSDP, BuiltConfig
from experiments.runner import processes
from experiments.runner.gpus import least_used_gpu
from loradrop.backbones import Backbone
from loradrop.methods.base import Method
from loradrop.tasks.base import Task
from loradrop.training.data import TaskData

# torch's initial number; another run of the same sweep may have changed it since. Slurm does not
# always keep a job from seeing more cores than it has
ALL_THREADS = int(os.environ.get("SLURM_CPUS_PER_TASK", torch.get_num_threads()))


class RunComponents:
    """The objects of a run, including its rows and its model.

    Args:
        built: A checked config and the objects that it names.

    Raises:
        ValueError, FileNotFoundError, OSError: If something is missing or does not fit.
    """

    def __init__(self, built: BuiltConfig) -> None:
        gc.collect()  # trainer and module of the last run refer to each other, and keep its model
        self.config = built.config
        self.seconds: dict[str, float] = {}  # wall time of each stage
        self.seeds = built.seeds
        self.recipe, self.decoding, self.method = built.recipe, built.decoding, built.method
        self.divided: list[str] = []  # the weights that strategy=fsdp divides among processes
        self.device = _device(built.config.trainer)
        backbone, task, models = built.backbone, built.task, built.models
        backbone.check(task, self.recipe.max_length, models, self.method.extra_tokens)
        self.weights = backbone.fingerprint(models)
        with self.timed("load"):
            splits = task.splits(built.data)
            check_method(self.method, backbone, task, models)
            task.check_metric()
            if self.recipe.epochs:  # otherwise nothing is scored
                task.check_references(splits)
            self.model, self.tokenizer = load_model(built)
            if processes.several() and self.config.trainer.strategy == FSDP:
                from experiments.runner.sharding import shard_frozen

                self.divided = shard_frozen(self.model, self.device)
            self.data = TaskData(
                task,
                splits,
                self.tokenizer,
                self.recipe.max_length,
                self.recipe.batch_size,
                self.seeds,
                self.config.trainer.num_workers,
                self.device.type == "cuda",
                Path(self.config.paths.cache) / "tokens",
                None if self.decoding is None else self.decoding.batch_size,
                self.recipe.long_rows,
                processes.rank(),
                processes.world_size(),
            )
        self.steps = len(self.data.train_loader()) * self.recipe.epochs  # optimiser steps
        self.method.check_steps(self.steps)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the wall time of a stage in `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def check_method(method: Method, backbone: Backbone, task: Task, models: Path | None) -> None:
    """Check that a method fits a backbone and a task, without loading weights.

    Args:
        method: The method.
        backbone: The backbone.
        task: The task.
        models: The folder of local models.

    Raises:
        ValueError: If it does not, naming the key to change.
    """
    model = backbone.skeleton(task, backbone.config(models))
    quantised = [
        p
        for p in model.parameters()
        if p.dim() > 1 and not p.requires_grad and backbone.quantization
    ]
    deepcopy(method).install(model)  # a method remembers its model
    if any(parameter.requires_grad for parameter in quantised):
        raise ValueError(
            f"method {method.name} trains weights of backbone {backbone.name} itself, "
            "which 4 bits cannot hold: set backbone.quantization=null"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"method {method.name} has nothing to train: task {task.name} has no new head"
        )
    if any(
        parameter.requires_grad and parameter.dtype != torch.float32
        for parameter in model.parameters()
    ):
        raise ValueError(
            f"method {method.name} trains weights of backbone {backbone.name} itself, and "
            f"small updates of {backbone.dtype} are lost to rounding: set backbone.dtype=float32"
        )


def load_model(built: BuiltConfig) -> tuple[nn.Module, Any]:
    """Load the pretrained model with a new head and the method's adapters, and its tokenizer.

    New weights depend only on the seed, so head and adapters can be recreated.
    """
    torch.manual_seed(built.seeds.weights)
    model, tokenizer = built.backbone.load(built.task, built.models)
    torch.manual_seed(built.seeds.weights)
    built.method.install(model)
    return model, tokenizer


def _device(settings: DictConfig) -> torch.device:
    """Choose the device and set the number of threads; ValueError if there is no such GPU."""
    on_machine = settings.devices if processes.several() else 1
    torch.set_num_threads(settings.num_threads or max(1, ALL_THREADS // on_machine))
    if settings.accelerator == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; use trainer=cpu")
    if on_machine > torch.cuda.device_count():
        raise ValueError(
            f"trainer.devices={settings.devices}, but torch sees {torch.cuda.device_count()} GPUs"
        )
    torch.cuda.set_device(processes.local_rank() if processes.several() else least_used_gpu())
    return torch.device("cuda")
