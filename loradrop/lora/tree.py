"""Which layer a module belongs to, and which modules are of one kind, read from their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from loradrop.lora.layer import LoRALinear
from loradrop.lora.wrappers import clean_names


def split_names(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Return the kind and the layer of every module.

    A module's kind is its name with * in place of the layer's number.

    A module outside the stack of layers is layer 0. If modules of one kind have several shapes,
    each shape is a kind of its own (`layers.*.q_proj[96x96]`), since LoRAs of different shapes
    cannot be shared. Stages of different widths that hold layers (Swin's `layers.2.blocks.5`) count
    as one stack, whose layers are numbered continuously.

    Args:
        model: A model, with LoRA or without.
    """
    tree = ModuleTree(model)
    found = {name: tree.split(name) for name in tree.modules}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, (kind, _) in found.items():
        shapes.setdefault(kind, set()).add(tree.shapes[name])
    return {
        name: (
            (f"{kind}[{'x'.join(map(str, tree.shapes[name]))}]", layer)
            if len(shapes[kind]) > 1 and tree.shapes[name]
            else (kind, layer)
        )
        for name, (kind, layer) in found.items()
    }


class ModuleTree:
    """The modules of a model by name, and which parts of their names count layers.

    Modules inside LoRA layers are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.types: dict[str, list[type]] = {}  # of the modules in a container
        inside = None
        for name, module in model.named_modules():
            if inside is None or not name.startswith(inside):
                self.modules[name] = module
                inside = f"{name}." if _unwrapped(module) is not module else None
        self.clean = clean_names(model)
        self.shapes = {name: widths(_unwrapped(module)) for name, module in self.modules.items()}
        # (stack, what leads on to the layers of a stage) -> number of stage and of its layer, in
        # order
        self.stages: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.pyramids = self._pyramids()
        for name in self.modules:
            if numbers := self._stage(name):
                stack, path, pair = numbers
                self.stages.setdefault((stack, path), []).append(pair)
        self.stages = {key: sorted(set(pairs)) for key, pairs in self.stages.items()}

    def split(self, name: str) -> tuple[str, int]:
        """Return a module's kind, without its shape, and its layer."""
        parts, position = name.split("."), self.stack_number(name)
        if position is None:
            return self.clean[name], 0
        layer = int(parts[position])
        if numbers := self._stage(name):
            stack, path, pair = numbers
            layer = self.stages[stack, path].index(pair)
            parts[self._inner_number(parts, position) or position] = "*"
        parts[position] = "*"
        whole = name.split(".")
        return (
            ".".join(part for i, part in enumerate(parts) if not self._is_wrapper(whole[: i + 1])),
            layer,
        )

    def _is_wrapper(self, parts: Sequence[str]) -> bool:
        """Whether a wrapper added the last part of a name, such as torch.compile's `_orig_mod`."""
        return self.clean[".".join(parts)] == self.clean[".".join(parts[:-1])]

    def stack_number(self, name: str) -> int | None:
        """Return the position of the layer's number in a module's name, None if it has none.

        It is the first number that counts modules of one type. The 0 of a pipeline of different
        modules (nn.Sequential, in which sentence-transformers puts its encoder) does not count.
        """
        parts = name.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                container = ".".join(parts[:position])
                own = type(_unwrapped(self.modules[f"{container}.{part}".lstrip(".")]))
                if (
                    isinstance(self.modules[container], nn.ModuleList)
                    or self._types(container).count(own) > 1
                ):
                    return position
        return None

    def _types(self, container: str) -> list[type]:
        if container not in self.types:
            self.types[container] = [
                type(_unwrapped(module)) for module in self.modules[container].children()
            ]
        return self.types[container]

    def _pyramids(self) -> set[str]:
        """Find the stacks in which modules of the same name have different shapes."""
        shapes: dict[tuple[str, str], set[tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            position = self.stack_number(name) if shape else None
            if position is not None:
                parts = name.split(".")
                key = ".".join(parts[:position]), ".".join(parts[position + 1 :])
                shapes.setdefault(key, set()).add(shape)
        return {stack for (stack, _), found in shapes.items() if len(found) > 1}

    def _stage(self, name: str) -> tuple[str, str, tuple[int, int]] | None:
        """The stack, the path to the layers and (stage, layer) of a module in a pyramid."""
        position = self.stack_number(name)
        parts = name.split(".")
        if position is None or (stack := ".".join(parts[:position])) not in self.pyramids:
            return None
        inner = self._inner_number(parts, position)
        if inner is None:
            return None
        return (
            stack,
            ".".join(parts[position + 1 : inner]),
            (int(parts[position]), int(parts[inner])),
        )

    def _inner_number(self, parts: Sequence[str], position: int) -> int | None:
        """Return the position of the number that counts the layers of a stage, or None.

        These layers are of one type, and the stage itself holds them.
        """
        steps = 0
        for inner in range(position + 1, len(parts)):
            if parts[inner].isdigit():
                return inner if len(set(self._types(".".join(parts[:inner])))) == 1 else None
            steps += not self._is_wrapper(parts[: inner + 1])
            if steps > 1:
                return None
        return None


def widths(module: Any) -> tuple[int, ...]:
    """Return (d_in, d_out), or () if the module is not linear.

    transformers' Conv1D (GPT-2) shows them only in its weight.
    """
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    shape = getattr(getattr(module, "weight", None), "shape", ())
    return tuple(shape) if len(shape) == 2 else ()


def _unwrapped(module: nn.Module) -> nn.Module:
    """The base module inside a LoRA layer, ours or PEFT's; other modules themselves."""
    return module.base if isinstance(module, LoRALinear) else getattr(module, "base_layer", module)
