"""The schema of a run's config. Does not import torch or Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from omegaconf import MISSING, OmegaConf

from loradrop.training.recipe import Decoding, Recipe

CONF = str(Path(__file__).parents[2] / "conf")


class UserError(CompactHydraException):
    """A user's mistake, shown in one line. HYDRA_FULL_ERROR=1 shows the traceback."""


@dataclass
class Paths:
    """Folders; null models and data: none is given."""

    outputs: str = MISSING
    cache: str = MISSING
    models: str | None = None
    data: str | None = None


@dataclass
class Trainer:
    """How a run is carried out on this machine."""

    accelerator: str = MISSING
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = MISSING
    num_threads: int | None = None
    num_workers: int = MISSING
    progress_bar: bool = MISSING
    checkpoint_minutes: float = MISSING


@dataclass
class Run:
    """The config of a run.

    Groups of type Any name a class (`_target_`); their keys are checked against its constructor.
    """

    backbone: Any = MISSING
    task: Any = MISSING
    method: Any = MISSING
    logger: Any = MISSING
    recipe: Recipe = MISSING
    decoding: Decoding | None = None
    trainer: Trainer = field(default_factory=Trainer)
    paths: Paths = field(default_factory=Paths)
    seed: int = MISSING
    save_weights: bool = MISSING
    wait: bool = MISSING
    rerun: str | None = None


ConfigStore.instance().store(name="schema", node=Run)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)  # ${times:2,${key}}
