"""Where LoRA sits: the linear modules that can hold one, by module type and layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from loradrop.lora.layer import LoRALinear
from loradrop.lora.notes import note
from loradrop.lora.wrappers import clean_names

# Query and value projections by model family; the first pair that a model has is its default.
DEFAULT_TARGETS = (
    ("query", "value"),  # BERT, RoBERTa, ELECTRA
    ("q_proj", "v_proj"),  # Llama and its relatives, BART, ViT, Swin
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
    ("q", "v"),  # T5, MPNet
    ("q_lin", "v_lin"),  # DistilBERT, XLM
    ("q_head", "v_head"),  # Funnel
    ("to_q", "to_v"),  # diffusers
)
# Query, key and value in one projection; for models that have none of the pairs.
FUSED_TARGETS = (
    "query_key_value",
    "Wqkv",
    "qkv_proj",
    "qkv",
    "c_attn",
)  # GPT-NeoX, ModernBERT, Phi-3, BLIP, GPT-2
ALL_LINEAR = "all-linear"  # as a target: every linear module of the stack of layers


@dataclass(frozen=True)
class Site:
    """One place of a model that can hold a LoRA: its full name, module type and layer index."""

    name: str  # e.g. roberta.encoder.layer.3.attention.self.query
    module_type: str  # e.g. query
    layer: int  # e.g. 3


def find_sites(model: nn.Module, target_modules: Iterable[str] | None = None) -> list[Site]:
    """Find the linear modules that are to hold LoRA.

    Args:
        model: The base model.
        target_modules: As for add_lora.

    Returns:
        Their sites, in the model's order. Where query, key and value are one projection and it is
        taken by default, a warning says so.

    Raises:
        ValueError: No module for a target; its message lists the linear modules.
    """
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if target_modules is None:
        target_modules = _default_targets(model, linear)
    target_modules = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    tree = _Tree(model)
    stack = {name for name in linear if tree.stack_number(name) is not None}
    if target_modules == [ALL_LINEAR]:
        if not stack:
            raise ValueError(
                f"target_modules: no layer has a linear module. {_listing(model, linear)}"
            )
        return sites_of(model, [name for name in linear if name in stack])
    if not target_modules:
        raise ValueError(f"target_modules: none are named. {_listing(model, linear)}")
    for target in target_modules:
        if not any(_ends(name, target) for name in linear):
            other = next(
                (
                    type(module).__name__
                    for name, module in model.named_modules()
                    if _ends(name, target)
                ),
                None,
            )
            what = f" ('{target}' is a {other})" if other else ""
            raise ValueError(
                f"target_modules: no linear module's name ends in '{target}'{what}."
                f" {_listing(model, linear)}"
            )
    names = [name for name in linear if any(_ends(name, target) for target in target_modules)]
    return sites_of(model, [name for name in names if name in stack] or names)


def _default_targets(model: nn.Module, linear: Iterable[str]) -> tuple[str, ...]:
    """Query and value of the model's family. Where they are one projection with the key, that, with
    a warning.
    """
    names = list(linear)
    for targets in (*DEFAULT_TARGETS, *((fused,) for fused in FUSED_TARGETS)):
        if all(any(_ends(name, target) for name in names) for target in targets):
            if targets[0] in FUSED_TARGETS:
                note(
                    f"{type(model).__name__}: query, key and value are one projection,"
                    f" {targets[0]}: it has one LoRA a layer"
                )
            return targets
    every = dict(model.named_modules())
    for fused in FUSED_TARGETS:
        found = next((module for name, module in every.items() if _ends(name, fused)), None)
        if found is not None:
            raise ValueError(
                f"{fused} is a {type(found).__name__}, which PEFT adapts: get_peft_model(model,"
                f" LoraConfig(target_modules=['{fused}'])), then measure and share"
            )
    raise ValueError(
        f"no default targets for {type(model).__name__}; name them (target_modules)."
        f" {_listing(model, names)}"
    )


def _is_linear(module: nn.Module) -> bool:
    return (
        not isinstance(module, LoRALinear)
        and hasattr(module, "in_features")
        and hasattr(module, "out_features")
    )


def _ends(name: str, suffix: str) -> bool:
    """Whether a name ends in a suffix, in which * stands for anything (`text_model.*.q_proj`)."""
    if "*" in suffix:
        return fnmatchcase(name, suffix) or fnmatchcase(name, "*." + suffix)
    return name == suffix or name.endswith("." + suffix)


def _listing(model: nn.Module, linear: Iterable[str]) -> str:
    """The linear modules there are, layers folded together."""
    tree = _Tree(model)
    kinds = dict.fromkeys(tree.split(name)[0] for name in linear)
    return "Linear modules: " + (", ".join(kinds) or "none")


def split_names(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Tell of every module its kind, which is its name with * for the layer's number, and its
    layer.

    A module outside the stack of layers is layer 0. Where one kind has several shapes, each shape
    is a kind of its own (`layers.*.q_proj[96x96]`), since LoRAs of different shapes cannot be
    shared. Stages of different widths that hold layers (Swin's `layers.2.blocks.5`) are one stack,
    whose layers are numbered through.

    Args:
        model: A model, with LoRA or without.
    """
    tree = _Tree(model)
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


class _Tree:
    """The modules of a model by name, and which parts of their names count layers. What is inside
    LoRA does not matter.
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
        """Kind without shape, and layer."""
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
        """Whether the last part of a name was added by a wrapper, as torch.compile's
        `_orig_mod`."""
        return self.clean[".".join(parts)] == self.clean[".".join(parts[:-1])]

    def stack_number(self, name: str) -> int | None:
        """Which part of a module's name is its layer's number: the first that counts modules of one
        kind.

        Not the 0 of a pipeline of unlike modules (nn.Sequential), in which sentence-transformers
        puts its encoder.
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
        """Stacks in which modules of the same name are of different shapes."""
        shapes: dict[tuple[str, str], set[tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            position = self.stack_number(name) if shape else None
            if position is not None:
                parts = name.split(".")
                key = ".".join(parts[:position]), ".".join(parts[position + 1 :])
                shapes.setdefault(key, set()).add(shape)
        return {stack for (stack, _), found in shapes.items() if len(found) > 1}

    def _stage(self, name: str) -> tuple[str, str, tuple[int, int]] | None:
        """Of a module in a layer of a pyramid's stage: the stack, the path to the layers, the two
        numbers.
        """
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
        """Which part of the name counts the layers of a stage: they are alike, and the stage itself
        holds them.
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
    """d_in and d_out, () of what is no linear module; transformers' Conv1D (GPT-2) has them in its
    weight alone.
    """
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    shape = getattr(getattr(module, "weight", None), "shape", ())
    return tuple(shape) if len(shape) == 2 else ()


def _unwrapped(module: nn.Module) -> nn.Module:
    """What LoRA is around, ours or PEFT's."""
    return module.base if isinstance(module, LoRALinear) else getattr(module, "base_layer", module)


def sites_of(model: nn.Module, names: Iterable[str]) -> list[Site]:
    """Make the sites of modules, with the shortest module types that tell their kinds apart.

    Args:
        model: The model that holds them.
        names: Full names of the modules.

    Returns:
        A site for each, in order; module types are `query`, or `encoder.q` and `decoder.q`.
    """
    places = split_names(model)
    split = {name: places[name] for name in names}
    kinds = dict.fromkeys(kind for kind, _ in split.values())
    for length in range(1, max((kind.count(".") + 2 for kind in kinds), default=1)):
        types = {kind: ".".join(kind.split(".")[-length:]) for kind in kinds}
        if len(set(types.values())) == len(kinds):
            break
    return [Site(name, types[kind], layer) for name, (kind, layer) in split.items()]
