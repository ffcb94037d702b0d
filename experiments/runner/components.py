"""Everything a run needs, built from its config in the order of what fails fastest; nothing is trained or written here.

Free of Lightning, whose import would cost a user's mistake some seconds more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.config.validation import instantiate_group
from loradrop.backbones import Backbone
from loradrop.methods.base import Method
from loradrop.tasks.base import Task
from loradrop.training.data import TaskData
from loradrop.training.recipe import Decoding, Recipe

ALL_THREADS = torch.get_num_threads()  # as torch starts; a run of the same sweep may have changed it


class RunComponents:
    """The objects of a run. ValueError, FileNotFoundError or OSError with one clear message where something is amiss."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.seconds: dict[str, float] = {}  # wall time of each stage
        self.recipe: Recipe = OmegaConf.to_object(config.recipe)
        self.method: Method = instantiate_group("method", config.method)
        self.device = _device(config.trainer)
        backbone: Backbone = instantiate_group("backbone", config.backbone)
        task: Task = instantiate_group("task", config.task)
        self.decoding: Decoding | None = config.decoding and OmegaConf.to_object(config.decoding)
        if task.generates != (self.decoding is not None):
            raise ValueError(
                f"task {task.name} generates text: add decoding=greedy or decoding=beam, or conf/decoding/{task.name}.yaml"
                if task.generates
                else f"task {task.name} has labels and generates nothing: leave decoding out"
            )
        models, data = (None if path is None else Path(path) for path in (config.paths.models, config.paths.data))
        backbone.check(task, self.recipe.max_length, models, self.method.extra_tokens)
        self.weights = backbone.fingerprint(models)
        with self.timed("load"):
            splits = task.load(data)
            check_method(instantiate_group("method", config.method), backbone, task, models)
            task.check_metric()
            self.model, self.tokenizer = load_model(backbone, task, self.method, models, config.seed)
            self.data = TaskData(
                task,
                splits,
                self.tokenizer,
                self.recipe.max_length,
                self.recipe.batch_size,
                config.seed,
                config.trainer.num_workers,
                self.device.type == "cuda",
                Path(config.paths.cache) / "tokens",
                self.decoding and self.decoding.batch_size,
            )
        self.steps = len(self.data.train_loader()) * self.recipe.epochs  # of the optimiser
        self.method.check_steps(self.steps)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the wall time of a stage, in seconds."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def check_method(method: Method, backbone: Backbone, task: Task, models: Path | None) -> None:
    """ValueError where a method does not fit a backbone, found without its weights."""
    model = backbone.skeleton(task, backbone.config(models))
    quantised = [p for p in model.parameters() if p.dim() > 1 and not p.requires_grad and backbone.quantization]
    method.install(model)
    if any(parameter.requires_grad for parameter in quantised):
        raise ValueError(
            f"method {method.name} trains weights of backbone {backbone.name} itself, which 4 bits cannot hold: set "
            "backbone.quantization=null"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"method {method.name} has nothing to train: task {task.name} has no new head")
    if any(parameter.requires_grad and parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ValueError(
            f"method {method.name} trains weights of backbone {backbone.name} itself, and small updates of {backbone.dtype} "
            "are lost to rounding: set backbone.dtype=float32"
        )


def load_model(backbone: Backbone, task: Task, method: Method, models: Path | None, seed: int) -> tuple[nn.Module, Any]:
    """The pretrained model with a new head and a method's adapters, and its tokenizer.

    New weights depend on the seed alone, not on what was drawn before: head and adapters can be made again.
    """
    torch.manual_seed(seed)
    model, tokenizer = backbone.load(task, models)
    torch.manual_seed(seed)
    method.install(model)
    return model, tokenizer


def _device(settings: DictConfig) -> torch.device:
    """Where measuring happens. ValueError for a GPU that is not there."""
    torch.set_num_threads(settings.num_threads or ALL_THREADS)
    if settings.accelerator == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; use trainer=cpu")
    return torch.device("cuda")
