"""Find modules whose weights a model uses without calling them: LoRA has no effect there.

A forward pass may read a projection's weight and multiply by it itself (nn.MultiheadAttention's
out_proj, WavLM's attention), or do so in a fused path for evaluation (nn.TransformerEncoderLayer).
Where the source code says so, LoRA is refused before it is put in. Where it does not, a forward
pass without hooks shows it: see `recorded_calls`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn

# what is read of a weight to learn about it, not to compute with it
_ABOUT = {"dtype", "device", "shape", "size", "ndim", "dim", "numel", "requires_grad"}
_ABOUT |= {"is_cuda", "is_meta", "is_floating_point", "element_size", "layout", "quant_state"}
_ASKING = {"isinstance", "hasattr", "type", "getattr", "len", "id"}


@dataclass
class _Uses:
    """What a class's forward does with the modules below it, by their names
    (`self_attn.out_proj`)."""

    reads: set[str] = field(default_factory=set)  # computes with the weight
    hands_on: set[str] = field(default_factory=set)  # gives the weight to a function
    mentions: set[str] = field(default_factory=set)  # calls the module, or gives it to somebody


def check_called(model: nn.Module, names: Iterable[str]) -> None:
    """Check that the code around modules calls them, as far as their parents' source code says.

    A weight that is read beside calls of the module is refused only where it is handed to a
    function as it is, as a fused kernel needs it. Other reads beside calls are branches for special
    cases.

    Args:
        model: The model that holds them.
        names: Full names of the modules that hold LoRA, or are to hold one.

    Raises:
        ValueError: A parent computes with a module's weight instead of calling the module.
    """
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts) - 1, -1, -1):
            parent, path = model.get_submodule(".".join(parts[:cut])), ".".join(parts[cut:])
            kind: Any = type(parent)
            uses = _uses(kind)
            never_called = cut == len(parts) - 1 and path in uses.reads - uses.mentions
            if never_called or path in uses.hands_on:
                raise ValueError(
                    without_effect(name, f"{type(parent).__name__} computes with its weight itself")
                )


def without_effect(name: str, why: str) -> str:
    """The message for a module whose LoRA would have no effect in training or evaluation."""
    return f"{name}: {why}, so that LoRA there has no effect: choose other target_modules"


@contextmanager
def recorded_calls(modules: Iterable[nn.Module]) -> Iterator[set[int]]:
    """Record which modules are called inside the block, without a hook, since fused paths look for
    hooks.

    Args:
        modules: Those that hold LoRA.

    Returns:
        The ids of the modules that were called, filled inside the block.
    """
    called: set[int] = set()
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module in modules:
            before.append((module, vars(module).get("forward")))
            vars(module)["forward"] = _recording(module, module.forward, called)
        yield called
    finally:
        for module, forward in before:
            del vars(module)["forward"]
            if forward is not None:
                vars(module)["forward"] = forward


def _recording(module: nn.Module, forward: Any, called: set[int]) -> Any:
    def record(*args: Any, **kwargs: Any) -> Any:
        called.add(id(module))
        return forward(*args, **kwargs)

    return record


@cache
def _uses(kind: Any) -> _Uses:
    """Collect the uses in `forward` and in the methods that it calls."""
    uses, done, waiting = _Uses(), set(), ["forward"]
    while waiting:
        name = waiting.pop()
        method = getattr(kind, name, None)
        if (
            name in done
            or not inspect.isfunction(method)
            or method is getattr(nn.Module, name, None)
        ):
            continue
        done.add(name)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
        except (
            OSError,
            TypeError,
            SyntaxError,
        ):  # made at run time: the forward pass has to show it
            continue
        _read_uses(tree, uses)
        waiting += [path for path in uses.mentions if path not in done]
    return uses


def _read_uses(tree: ast.AST, uses: _Uses) -> None:
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        path = _path(node)
        above = parents.get(node)
        if path is None or (isinstance(above, ast.Attribute) and not path.endswith(".weight")):
            continue
        owner, _, last = path.rpartition(".")
        if last != "weight" or not owner:
            uses.mentions.add(path)
        elif not _asks(above):
            uses.reads.add(owner)
            # in a list of arguments, or in a tuple of them
            if isinstance(above, ast.Call | ast.keyword | ast.Starred):
                uses.hands_on.add(owner)


def _path(node: ast.AST) -> str | None:
    """`a.b` for `self.a.b`, None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (
        ".".join(reversed(parts))
        if parts and isinstance(node, ast.Name) and node.id == "self"
        else None
    )


def _asks(above: ast.AST | None) -> bool:
    """Whether a weight is only asked about: its type, its device, whether it is there."""
    if isinstance(above, ast.Attribute):
        return above.attr in _ABOUT
    if isinstance(above, ast.Call):
        return isinstance(above.func, ast.Name) and above.func.id in _ASKING
    return isinstance(above, ast.Compare)
