"""Check a node of a config against the class that its `_target_` names.

Hydra would call whatever is named there, at any depth. Here a group names a class of its own kind,
and so does a key whose value the constructor declares to be of that kind (a task made of another).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING as REQUIRED
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

CLASSES = {  # what `_target_` must name
    "method": "loradrop.methods.base.Method",
    "task": "loradrop.tasks.base.Task",
    "backbone": "loradrop.backbones.Backbone",
}
SUPPLIED = "run"  # an argument that the runner supplies, not a key in YAML


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End an error message with the known name that was probably meant, or with all names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]}?" if close else f" There are: {', '.join(known)}."


def check_target(group: str, config: DictConfig) -> None:
    """Check a node's keys and types against the constructor that its `_target_` names."""
    kind = get_object(CLASSES[group]) if group in CLASSES else None
    _check(group, OmegaConf.to_container(config, resolve=True), kind)


def _check(group: str, node: Any, kind: type | None) -> None:
    """Check a node of a class of some kind; None: of a function that makes a logger."""
    target = node.pop("_target_")
    try:
        called = get_object(target)
    except Exception as error:
        raise ValueError(f"{group}._target_: cannot import {target}: {error}") from error
    if kind is not None:
        if not (inspect.isclass(called) and issubclass(called, kind)):
            named = f"{kind.__module__}.{kind.__qualname__}"
            raise ValueError(f"{group}._target_: {target} is no {kind.__name__} ({named})")
    elif SUPPLIED not in inspect.signature(called).parameters:
        raise ValueError(f"{group}._target_: {target} takes no `{SUPPLIED}`, as a logger does")
    # the constructor of a dataclass cannot resolve the types of its fields; the class can
    plain = inspect.isclass(called) and not dataclasses.is_dataclass(called)
    hints = typing.get_type_hints(called.__init__ if plain else called)
    parameters = inspect.signature(called).parameters
    for name, value in node.items():
        if name not in parameters:
            raise ValueError(
                f"{group}.{name}: {target} has no such key.{did_you_mean(name, parameters)}"
            )
        hint = hints.get(name, Any)
        if kind and isinstance(value, dict) and "_target_" in value and _is_kind(hint, kind):
            _check(f"{group}.{name}", value, hint)  # a task that is made of another task
        elif nested := next(_targets(value, f"{group}.{name}"), None):
            raise ValueError(f"{nested}: no class can be named here")
        elif not _fits(value, hint):
            raise ValueError(f"{group}.{name} must be {_readable(hint)}, got {value!r:.80}")
    for name, parameter in parameters.items():
        required = parameter.default in (inspect.Parameter.empty, REQUIRED)
        if required and name not in node and name != SUPPLIED:
            raise ValueError(f"{group}.{name} is missing ({target})")


def _is_kind(hint: Any, kind: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, kind)


def _targets(node: Any, name: str) -> Iterator[str]:
    """The keys below a node that Hydra would take for a class to build."""
    mapping = dict(enumerate(node)) if isinstance(node, list) else node
    for key, value in mapping.items() if isinstance(mapping, dict) else ():
        if key == "_target_":
            yield f"{name}.{key}"
        yield from _targets(value, f"{name}.{key}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value has the annotated type. Scalars, lists of them and None are checked."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        return type(None) in options or hint is Any
    if isinstance(value, list) and (kinds := _elements(options)):
        return any(all(_fits(each, kind) for each in value) for kind in kinds)
    scalars = [option for option in options if option in (int, float, str, bool)]
    if not scalars or isinstance(value, list):
        return not (isinstance(value, list) and scalars == list(options))
    if isinstance(value, bool):
        return bool in scalars
    return isinstance(value, tuple(scalars)) or (isinstance(value, int) and float in scalars)


def _elements(options: Iterable[Any]) -> list[Any]:
    """What the lists among some types consist of."""
    lists = (list, tuple, Sequence, Iterable)
    return [typing.get_args(one)[0] for one in options if typing.get_origin(one) in lists]


def _readable(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return name.replace("typing.", "").replace("None", "null")
