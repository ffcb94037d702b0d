"""The identity of a run: the values of its config that make its id. Does not import torch.

An id covers the values that can change a number, by their meaning:

    in      names and settings of backbone, task and method, the recipe, the decoding, the seed,
            and the trainer settings that change a bit (accelerator, precision, num_threads;
            of several processes their number, devices x num_nodes, and the strategy)
    not in  where code is: `_target_`, and the module of a class that a setting names (task.metric)
            where files are: paths, task.official, task.url, the names in task.files (their
            checksums and numbers of rows are in)
            what a run writes and prints: logger, save_weights, wait, rerun, progress_bar,
            checkpoint_minutes, num_workers
            keys that a method got later, with the value that older results stand for
            recipe.lora_rank, which a method that uses it has as its own
            nulls, which mean the same as absent keys; an adapter_learning_rate equal to the
            learning_rate; long_rows=truncate
            how a number is written: 2 equals 2.0

So moving a class or mirroring data changes no id. Renaming a key or a name does;
`experiments.rekey` then gives stored results their new ids, from their recorded configs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.added_keys import without_added
from experiments.config.schema import UserError

IDENTITY_VERSION = 2  # raise it when an id covers other values, then run `experiments.rekey`
WORD = re.compile(r"\w[\w.-]{0,59}")
GROUPS = ("backbone", "task", "method")
COUNTED = (*GROUPS, "recipe", "trainer", "seed")  # keys of a config without which it has no id
OF_TRAINER = ("accelerator", "precision", "num_threads")
PLACES = {"task": ("official", "url")}  # keys for where something is, not what it is
CLASSES = {"task": ("metric",)}  # keys that name a class


def run_id(config: DictConfig | Mapping[str, Any]) -> str:
    """The id of a run: <backbone>-<task>-<method>-s<seed>-<digest of its identity>.

    Args:
        config: The config of a run, composed by Hydra, or plain as in a result file.

    Raises:
        UserError: If a name cannot be part of a folder's name.
    """
    counted = identity(config)
    return "-".join([*names_of(counted), f"s{counted['seed']}", digest(counted)])


def group_id(config: DictConfig | Mapping[str, Any]) -> str:
    """What runs share that differ in their seed alone: <backbone>-<task>-<method>-<digest>."""
    counted = identity(config)
    return "-".join([*names_of(counted), digest({**counted, "seed": None})])


def stage1_id(config: DictConfig | Mapping[str, Any], **measured: Any) -> str:
    """The id of a stage 1, which all runs of a backbone, task, recipe, seed and precision share.

    Args:
        config: The config of one of these runs. Its method and number of epochs do not count.
        measured: What else the measurement depends on, as JSON values.
    """
    counted = identity(config)
    recipe = {key: value for key, value in counted["recipe"].items() if key != "epochs"}
    shared = {key: counted[key] for key in ("version", "backbone", "task", "trainer", "seed")}
    backbone, task, _ = names_of(counted)
    key = digest({**shared, "recipe": recipe, **measured})
    return "-".join([backbone, task, "stage1", f"s{counted['seed']}", key])


def identity(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's config that can change a number, without import paths and locations."""
    plain: Any = (
        OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    )
    names_of(plain)
    return {
        "version": IDENTITY_VERSION,
        **{group: _settings(group, plain[group]) for group in GROUPS},
        "recipe": _recipe(plain["recipe"]),
        "decoding": plain.get("decoding"),
        "trainer": _trainer(plain["trainer"]),
        "seed": plain["seed"],
    }


def names_of(config: Mapping[str, Any]) -> list[str]:
    """The names of a run's groups, which become names of folders: `../x` must not lead out of them.

    Args:
        config: The config of a run, plain.

    Raises:
        UserError: If a group has no name, or one that is no word.
    """
    names = []
    for group in GROUPS:
        node = config.get(group)
        if not isinstance(node, Mapping):
            raise UserError(f"{group} must be a group with a name, got {node!r:.80}")
        for key, part in parts_of(group, node):
            name = part.get("name")
            if not isinstance(name, str) or not WORD.fullmatch(name):
                raise UserError(
                    f"{key}.name must be a word of at most 60 letters, digits, '_', '-' and '.', "
                    f"got {name!r:.80}"
                )
        names.append(node["name"])
    return names


def parts_of(key: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A group with its key, and the tasks that a task is made of (LabelsAsText) with theirs."""
    yield key, node
    for name, value in node.items():
        if _is_task(value):
            yield from parts_of(f"{key}.{name}", value)


def digest(plain: Any) -> str:
    """Hash a JSON value to eight hexadecimal digits; nulls in mappings do not count."""
    text = json.dumps(_normal(plain), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _settings(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The name and settings of a group that count."""
    if group == "method":
        node = without_added(node)
    kept = {
        # a task may hold another one (LabelsAsText)
        key: _settings(group, value) if _is_task(value) else _without_modules(value)
        for key, value in node.items()
        if key != "_target_"
    }
    for key in PLACES.get(group, ()):
        kept.pop(key, None)
    for key in CLASSES.get(group, ()):
        kept[key] = _class_name(kept.get(key))
    if group == "task" and isinstance(kept.get("files"), Mapping):
        kept["files"] = {split: _without_name(file) for split, file in kept["files"].items()}
    return kept


def _trainer(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What changes a bit. Several processes draw other dropout masks than one."""
    kept = {key: trainer.get(key) for key in OF_TRAINER}
    count = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    if count > 1:
        kept |= {"processes": count, "strategy": trainer["strategy"].replace("auto", "ddp")}
    return kept


def _is_task(value: Any) -> bool:
    return isinstance(value, Mapping) and {"name", "metric"} <= value.keys()


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe, without the rank and what holds anyway.

    That is an adapter's own learning rate if it equals the general one, and that long rows are cut,
    as they were before there was a choice.
    """
    left_out = {"lora_rank"}
    if recipe.get("adapter_learning_rate") == recipe.get("learning_rate"):
        left_out.add("adapter_learning_rate")
    if recipe.get("long_rows") == "truncate":
        left_out.add("long_rows")
    return {key: value for key, value in recipe.items() if key not in left_out}


def _without_name(file: Any) -> Any:
    return {k: v for k, v in file.items() if k != "name"} if isinstance(file, Mapping) else file


def _without_modules(node: Any) -> Any:
    """The value, with import paths of classes in `_target_` cut to class names."""
    if isinstance(node, Mapping):
        return {
            k: _class_name(v) if k == "_target_" else _without_modules(v) for k, v in node.items()
        }
    return [_without_modules(value) for value in node] if isinstance(node, list) else node


def _class_name(path: Any) -> Any:
    return path.rpartition(".")[2] if isinstance(path, str) else path


def _normal(plain: Any) -> Any:
    """The value without nulls in mappings, and with whole numbers as integers."""
    if isinstance(plain, Mapping):
        return {key: _normal(value) for key, value in plain.items() if value is not None}
    if isinstance(plain, list | tuple):
        return [_normal(value) for value in plain]
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain
