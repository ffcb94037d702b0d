"""Check a config and build the objects that it names. Does not import torch or Lightning itself.

`check_values` checks names, numbers and folders; it imports no class that the config names, and so
no torch. `build` then builds each object once; a run is set up from these.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.config.identity import parts_of, run_id
from experiments.config.precision import AUTO
from experiments.config.targets import check_target, did_you_mean
from loradrop.seeds import Seeds
from loradrop.training.recipe import Decoding, Recipe

if TYPE_CHECKING:
    from loradrop.backbones import Backbone
    from loradrop.methods.base import Method
    from loradrop.tasks.base import Task

NAMED = ("method", "task", "backbone")  # groups whose name is part of the run's id
ACCELERATORS = ("cpu", "gpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
CHANGED = "changed"  # the value of `rerun` besides null
FSDP = "fsdp"
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", FSDP)  # as Lightning names them
PLACE = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # of files below a folder that `paths` names
PLACES = {
    "backbone": ("hub_id", "revision"),
    "task": ("hub_id", "revision", "official", "config"),
}
LIMITS = {  # of numbers of `trainer`
    "devices": (1, 2**16),
    "num_nodes": (1, 2**16),
    "num_threads": (1, 2**10),
    "num_workers": (0, 2**10),
    "checkpoint_minutes": (0, 10**9),
}


@dataclass(frozen=True)
class BuiltConfig:
    """A checked config and the objects that it names. No data or model is loaded yet."""

    config: DictConfig
    backbone: Backbone
    task: Task
    method: Method
    recipe: Recipe
    decoding: Decoding | None
    make_logger: Callable[[Any], Any] | None  # from a RunInfo

    @property
    def seeds(self) -> Seeds:
        """The random streams of the run."""
        return Seeds(self.config.seed)

    @property
    def models(self) -> Path | None:
        """The folder of local models, if there is one."""
        return _path(self.config.paths.models)

    @property
    def data(self) -> Path | None:
        """The folder of local data sets, if there is one."""
        return _path(self.config.paths.data)


def check(config: DictConfig) -> BuiltConfig:
    """Check a config and build the objects that it names, without loading data or a model.

    Quick checks come first: names and numbers, then classes that import torch.

    Returns:
        The objects, each built once.

    Raises:
        ValueError, FileNotFoundError, OSError: If the config has a mistake.
    """
    check_values(config)
    return build(config)


def check_values(config: DictConfig) -> None:
    """Check the names, numbers and folders of a config, without importing a class that it names.

    Raises:
        ValueError, FileNotFoundError: If the config has a mistake; the message names the key.
    """
    _check_keys(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for group in NAMED:
        if not isinstance(plain[group], dict) or not plain[group].get("_target_"):
            raise ValueError(f"{group}._target_ is missing: the class to build")
    run_id(plain)  # names
    _check_places(plain)
    OmegaConf.to_object(config.recipe)
    if config.decoding is not None:
        OmegaConf.to_object(config.decoding)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2^32), got {config.seed}")
    for name, number in _numbers(plain):
        if not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, got {number}")
    settings = config.trainer
    for key, (least, most) in LIMITS.items():
        if settings[key] is not None and not least <= settings[key] <= most:
            bound = f"least {least}" if settings[key] < least else f"most {most}"
            raise ValueError(f"trainer.{key} must be at {bound}, got {settings[key]}")
    choices = {"accelerator": ACCELERATORS, "precision": PRECISIONS, "strategy": STRATEGIES}
    for key, allowed in choices.items():
        if settings[key] not in allowed:
            known = [*allowed, AUTO] if key == "precision" else allowed
            raise ValueError(
                f"trainer.{key} must be one of {', '.join(known)}, got '{settings[key]}'"
            )
    if config.rerun not in (None, CHANGED):
        raise ValueError(f"rerun must be {CHANGED} or null, got '{config.rerun}'")
    _check_processes(config)
    for key in ("models", "data"):
        folder = config.paths[key]
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(
                f"paths.{key} (LORADROP_{key.upper()}): there is no folder {folder}"
            )


def _check_processes(config: DictConfig) -> None:
    """Check the settings of a run over several devices."""
    settings, count = config.trainer, config.trainer.devices * config.trainer.num_nodes
    if count == 1 and settings.strategy != "auto":
        raise ValueError(
            f"trainer.strategy={settings.strategy} is for several devices; set trainer.devices, or "
            "leave it out"
        )
    if settings.strategy == FSDP and config.backbone.get("quantization"):
        raise ValueError(
            "trainer.strategy=fsdp cannot divide weights of 4 bits: set backbone.quantization=null "
            "or trainer.strategy=ddp"
        )
    if count > config.recipe.batch_size:
        raise ValueError(
            f"recipe.batch_size={config.recipe.batch_size} cannot be divided among {count} "
            "processes (trainer.devices x trainer.num_nodes)"
        )


def build(config: DictConfig) -> BuiltConfig:
    """Build the objects that a config names. Call `check_values` first.

    Raises:
        ValueError: If a class does not have a key, or refuses a value.
    """
    make_logger = None
    if config.logger.get("_target_"):
        check_target("logger", config.logger)
        make_logger = instantiate_group("logger", config.logger, _partial_=True)
    objects = {}
    for group in NAMED:
        check_target(group, config[group])
        objects[group] = instantiate_group(group, config[group])
    recipe: Any = OmegaConf.to_object(config.recipe)
    decoding: Any = config.decoding and OmegaConf.to_object(config.decoding)
    built = BuiltConfig(
        config=config, recipe=recipe, decoding=decoding, make_logger=make_logger, **objects
    )
    _check_together(built)
    return built


def _check_together(built: BuiltConfig) -> None:
    """Raise ValueError if valid objects do not fit together."""
    task, method = built.task, built.method
    if task.generates and built.decoding is None:
        raise ValueError(
            f"task {task.name} generates text: add decoding=greedy or decoding=beam, "
            f"or conf/decoding/{task.name}.yaml"
        )
    if built.decoding is not None and not task.generates:
        raise ValueError(f"task {task.name} has labels and generates nothing: leave decoding out")
    if built.recipe.epochs == 0 and not method.measures:
        raise ValueError(
            f"recipe.epochs=0 leaves nothing to do: method {method.name} measures nothing"
        )


def instantiate_group(key: str, node: DictConfig, **supplied: Any) -> Any:
    """Build the object that a node's `_target_` names.

    Args:
        key: The node's key, for messages.
        node: The node.
        supplied: Arguments that are not in the config.

    Raises:
        ValueError: If the constructor fails; the message is its own.
    """
    try:
        return instantiate(node, **supplied)
    except InstantiationException as error:
        raise ValueError(f"{key}: {error.__cause__}") from error


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def _check_keys(node: DictConfig, name: str = "") -> None:
    """Hydra accepts `+key=value` for any key. One that nothing reads would only change the id."""
    schema: Any = OmegaConf.get_type(node)
    known = [field.name for field in dataclasses.fields(schema)]
    for key in map(str, node):
        if key not in known:
            raise ValueError(f"{name}{key}: there is no such key.{did_you_mean(key, known)}")
        if dataclasses.is_dataclass(OmegaConf.get_type(node, key)):
            _check_keys(node[key], f"{name}{key}.")
    for key in known:
        if key not in node.keys():  # noqa: SIM118 (`in node` is False for a key without a value)
            raise ValueError(f"{name}{key} is missing")


def _check_places(plain: dict[str, Any]) -> None:
    """What names files below paths.models and paths.data must not lead out of them."""
    places: dict[str, Any] = {}
    for group in PLACES:
        for name, node in parts_of(group, plain[group]):
            places |= {f"{name}.{key}": node.get(key) for key in PLACES[group]}
            files = node.get("files")
            for split, file in files.items() if isinstance(files, dict) else ():
                found = file.get("name") if isinstance(file, dict) else None
                places[f"{name}.files.{split}.name"] = found
            if re.search("[@?]", str(node.get("url"))):
                raise ValueError(
                    f"{name}.url must not hold a user's name or key: results record it"
                )
    for key, place in places.items():
        if place is not None and not PLACE.fullmatch(str(place)):
            raise ValueError(f"{key} must be a relative path without '..', got {place!r:.80}")


def _numbers(node: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All floats of a config, with their keys."""
    if isinstance(node, float):
        yield name, node
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from _numbers(value, f"{name}.{key}" if name else str(key))
