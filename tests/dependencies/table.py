"""The table of what the project relies on in other libraries, and how a row is added to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from conftest import ROOT, tiny_model

OURS = {
    path: path.read_text(encoding="utf-8")
    for part in ("loradrop", "experiments", "hydra_plugins")
    for path in (ROOT / part).rglob("*.py")
}


@dataclass(frozen=True)
class Row:
    library: str
    code: str  # text of our source that relies on it
    needs: str
    check: Callable[[], None]


TABLE: list[Row] = []


def relies_on(
    library: str, code: str, needs: str
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(check: Callable[[], None]) -> Callable[[], None]:
        TABLE.append(Row(library, code, needs, check))
        return check

    return add


def encoder(family: str) -> torch.nn.Module:
    model = tiny_model(family)
    return getattr(model, model.base_model_prefix)


def has(thing: object, *names: str) -> None:
    lacking = [name for name in names if not hasattr(thing, name)]
    assert not lacking, f"{thing!r:.80} has no {', '.join(lacking)}"


def takes(called: Callable, *names: str) -> None:
    parameters = inspect.signature(called).parameters
    lacking = [name for name in names if name not in parameters]
    assert not lacking, (
        f"{called.__qualname__} takes no {', '.join(lacking)}, only {', '.join(parameters)}"
    )


def takes_over(ours: type, theirs: type, prefix: str = "on_") -> None:
    """Every hook of ours is one that the library calls."""
    unknown = [name for name in vars(ours) if name.startswith(prefix) and not hasattr(theirs, name)]
    assert not unknown, f"{theirs.__qualname__} has no {', '.join(unknown)}"
