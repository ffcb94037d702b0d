"""Checks of a config, before anything is loaded. Imports neither torch nor Lightning."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING as REQUIRED
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.config.precision import AUTO

GROUPS = ("logger", "method", "task", "backbone")
ACCELERATORS = ("cpu", "gpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SUPPLIED = "run"  # an argument that the runner hands over, no key of a YAML


def check(config: DictConfig) -> None:
    """ValueError, FileNotFoundError or OSError for every mistake that can be seen without loading data or a model.

    In the order of what is fast to find: names and numbers first, classes that import torch and transformers last.
    """
    _check_keys(config)
    OmegaConf.to_object(config.recipe)
    if config.decoding is not None:
        OmegaConf.to_object(config.decoding)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2^32), got {config.seed}")
    for name, number in _numbers(OmegaConf.to_container(config, resolve=True)):
        if not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, got {number}")
    settings = config.trainer
    for key, least in (("num_threads", 1), ("num_workers", 0), ("checkpoint_minutes", 0)):
        if settings[key] is not None and settings[key] < least:
            raise ValueError(f"trainer.{key} must be at least {least}, got {settings[key]}")
    for key, allowed in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
        if settings[key] not in allowed:
            known = [*allowed, AUTO] if key == "precision" else allowed
            raise ValueError(f"trainer.{key} must be one of {', '.join(known)}, got '{settings[key]}'")
    for key in ("models", "data"):
        folder = config.paths[key]
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"paths.{key} (LORADROP_{key.upper()}): there is no folder {folder}")
    for group in GROUPS:
        _check_target(group, OmegaConf.to_container(config[group], resolve=True))
        if group != "logger" and config[group].get("_target_"):
            instantiate_group(group, config[group])


def _check_keys(node: DictConfig, name: str = "") -> None:
    """Hydra takes `+key=value` for any key; one that nothing reads would change the id alone."""
    known = [field.name for field in dataclasses.fields(OmegaConf.get_type(node))]
    for key in node:
        if key not in known:
            raise ValueError(f"{name}{key}: there is no such key.{_hint(key, known)}")
        if dataclasses.is_dataclass(OmegaConf.get_type(node, key)):
            _check_keys(node[key], f"{name}{key}.")


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]}?" if close else f" Keys: {', '.join(known)}."


def _numbers(node: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All floats of a config, with their keys."""
    if isinstance(node, float):
        yield name, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _numbers(value, f"{name}.{key}" if name else str(key))


def instantiate_group(key: str, node: DictConfig, **supplied: Any) -> Any:
    """The object that a node's `_target_` names; ValueError with its constructor's own message."""
    try:
        return instantiate(node, **supplied)
    except InstantiationException as error:
        raise ValueError(f"{key}: {error.__cause__}") from error


def _check_target(key: str, node: dict[str, Any]) -> None:
    """Do the keys and types of a node fit the constructor that its `_target_` names?"""
    target = node.get("_target_")
    if target is None:
        if key != "logger":
            raise ValueError(f"{key}._target_ is missing: the class to build")
        return
    try:
        called = get_object(target)
    except Exception as error:
        raise ValueError(f"{key}._target_: cannot import {target}: {error}") from error
    # a dataclass's constructor does not know the modules that its fields' types come from
    plain = inspect.isclass(called) and not dataclasses.is_dataclass(called)
    hints = typing.get_type_hints(called.__init__ if plain else called)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(called).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in parameters:
            raise ValueError(f"{key}.{name}: {target} has no such key.{_hint(name, parameters)}")
        if not _fits(value, hints.get(name, Any)):
            raise ValueError(f"{key}.{name} must be {_readable(hints[name])}, got {value!r}")
    for name, parameter in parameters.items():
        if parameter.default in (inspect.Parameter.empty, REQUIRED) and name not in node and name != SUPPLIED:
            raise ValueError(f"{key}.{name} is missing ({target})")


def _fits(value: Any, hint: Any) -> bool:
    """Is a plain YAML value of the annotated type? Only scalars and None are judged."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        return type(None) in options or hint is Any
    scalars = [option for option in options if option in (int, float, str, bool)]
    if not scalars or isinstance(value, list):
        return not (isinstance(value, list) and scalars == list(options))
    if isinstance(value, bool):
        return bool in scalars
    return isinstance(value, tuple(scalars)) or (isinstance(value, int) and float in scalars)


def _readable(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("None", "null")
