"""Select: which layers keep an own LoRA (LoRA-drop, arXiv 2402.07721, Sections 3 and 4.4). Pure Python.

Layers in descending y until the sum reaches T; the layer that crosses T is kept; T = 1 keeps all. Every module type is
selected for itself, or all types are ranked jointly. Alternatively by a budget: the largest set of kept layers whose
parameters, the shared LoRA included, stay within a fraction of plain LoRA's.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

WHICH = ("largest", "smallest", "unselected", "random", "top")
Key = tuple[str, int]  # module type, layer


class Measured(Protocol):
    """What is read of an importance.Importance."""

    @property
    def values(self) -> Mapping[str, Mapping[int, float]]: ...

    @property
    def parameters(self) -> Mapping[str, Mapping[int, int]]: ...

    @property
    def normalized(self) -> Mapping[str, Mapping[int, float]]: ...


@dataclass(frozen=True)
class SharingPlan:
    """Which layers keep an own LoRA; the others use one common LoRA for each module type, or none."""

    kept: dict[str, tuple[int, ...]]  # module type -> layers, ascending
    others: dict[str, tuple[int, ...]]
    share: bool  # do the others share a LoRA (True) or get none (False)?
    lora_parameters: int  # of plain LoRA in all layers
    parameters: int  # of this plan, each shared LoRA counted once

    @property
    def saved(self) -> int:
        """Parameters that plain LoRA has and this plan has not."""
        return self.lora_parameters - self.parameters

    @property
    def notes(self) -> list[str]:
        """What a user would otherwise be surprised by."""
        notes = [
            f"{kind}: layer {layers[0]} alone is left to share, which costs what it replaces"
            for kind, layers in self.others.items()
            if self.share and len(layers) == 1
        ]
        return [*notes, "the plan saves no parameters"] if self.saved == 0 else notes

    def to_dict(self) -> dict[str, Any]:
        return {key: _listed(value) if isinstance(value, dict) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SharingPlan:
        layers = {part: {k: tuple(v) for k, v in data[part].items()} for part in ("kept", "others")}
        return cls(**{**data, **layers})

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> SharingPlan:
        return cls.from_dict(json.loads(Path(path).read_text()))

    def __str__(self) -> str:
        lines = []
        for kind, layers in self.kept.items():
            rest = self.others[kind]
            fate = "one shared LoRA in" if self.share else "no LoRA in"
            lines.append(f"{kind}: own LoRA in {_layers(layers)}; {fate} {_layers(rest)}")
        percent = 100 * self.parameters / self.lora_parameters
        lines.append(f"{self.parameters:,} of LoRA's {self.lora_parameters:,} parameters ({percent:.1f} %)")
        return "\n".join([*lines, *self.notes])


def select(
    importance: Measured,
    threshold: float | None = None,
    budget: float | None = None,
    k: int | None = None,
    jointly: bool = False,
    which: str = "largest",
    share: bool = True,
    seed: int = 0,
) -> SharingPlan:
    """Choose the layers that keep an own LoRA. Give `threshold` (T), `budget`, each in (0, 1], or `k`.

    `which` layers keep their own, with k, where not given, the number that LoRA-drop keeps of each module type: the k
    `largest` (LoRA-drop); for the ablations of Section 4.4 the k `smallest` or the `unselected` ones (both readings of
    "inv"), k at `random` (drawn from `seed`), or the k upper layers (`top`). `jointly` ranks all module types together.
    Ties go to the lower layer. ValueError: a number out of range, an unknown `which`, importances that are all zero, a
    budget smaller than the shared LoRAs alone, no layer left with a LoRA. TypeError: not an Importance.
    """
    check_selection(threshold, budget, k, which)
    if not hasattr(importance, "normalized"):
        raise TypeError(f"an Importance is needed, what measure returns, got {type(importance).__name__}")
    kept: set[Key] = set()
    for group in _groups(importance, jointly):
        ranked = sorted(group, key=lambda key: (-group[key], key[1]))
        if threshold is not None:
            count = _reach(group, ranked, threshold)
        elif budget is not None:
            count = _afford(importance, ranked, budget, share)
        elif k is not None and k <= len(ranked):
            count = k
        else:
            raise ValueError(f"k must not exceed the {len(ranked)} layers there are, got {k}")
        kept.update(ranked[:count])
    if not kept and not share:
        raise ValueError(f"budget {budget} is too small: no layer would have a LoRA")
    kept = _which(importance, kept, which, seed)
    if not kept and not share:
        raise ValueError(f"which={which} leaves no layer with a LoRA: share=True, or a lower threshold")
    return _plan(importance, kept, share)


def check_selection(threshold: float | None, budget: float | None, k: int | None, which: str) -> None:
    """ValueError where the settings of `select` make no sense, whatever the importances."""
    if sum(given is not None for given in (threshold, budget, k)) != 1:
        raise ValueError("give one of threshold, budget and k; the others are null")
    for name, limit in (("threshold", threshold), ("budget", budget)):
        if limit is not None and not 0 < limit <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {limit}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}, got '{which}'")
    if which == "unselected" and threshold is None:
        raise ValueError("which=unselected keeps what a threshold would leave out: give a threshold")


def _groups(importance: Measured, jointly: bool) -> list[dict[Key, float]]:
    """Normalised importances of what is ranked together: each module type, or everything."""
    if not jointly:
        return [{(kind, i): y for i, y in layers.items()} for kind, layers in importance.normalized.items()]
    total = math.fsum(g for layers in importance.values.values() for g in layers.values())
    if not (math.isfinite(total) and total > 0):
        raise ValueError("importances must be finite and not all zero")
    return [{(kind, i): g / total for kind, layers in importance.values.items() for i, g in layers.items()}]


def _reach(group: Mapping[Key, float], ranked: list[Key], threshold: float) -> int:
    """How many of the ranked it takes until their sum reaches the threshold."""
    if threshold == 1:
        return len(ranked)  # also the layers whose importance is lost in the rounding of the sum
    # the tolerance keeps a sum that equals T on paper (0.5 + 0.25 + 0.15) from missing it by rounding
    return next(k for k in range(1, len(ranked) + 1) if math.fsum(group[key] for key in ranked[:k]) >= threshold - 1e-9)


def _afford(importance: Measured, ranked: list[Key], budget: float, share: bool) -> int:
    """The largest number of the ranked that can keep their own within the budget."""
    sizes = {key: importance.parameters[key[0]][key[1]] for key in ranked}
    allowed = budget * sum(sizes.values()) + 1e-6
    for k in range(len(ranked), -1, -1):
        own = sum(sizes[key] for key in ranked[:k])
        shared = {key[0]: sizes[key] for key in ranked[k:]} if share else {}
        if own + sum(shared.values()) <= allowed:
            return k
    raise ValueError(
        f"budget {budget} is too small: the shared LoRAs alone need {sum(shared.values()) / sum(sizes.values()):.3f}"
    )


def _which(importance: Measured, selected: set[Key], which: str, seed: int) -> set[Key]:
    """The layers that keep their own under an ablation, as many of each module type as were selected."""
    if which == "largest":
        return selected
    draw = random.Random(seed)
    result: set[Key] = set()
    for kind, values in importance.values.items():
        layers = sorted(values)
        k = sum((kind, layer) in selected for layer in layers)
        if which == "unselected":
            chosen = [layer for layer in layers if (kind, layer) not in selected]
        elif which == "smallest":
            chosen = sorted(layers, key=lambda layer: (values[layer], layer))[:k]
        elif which == "random":
            chosen = draw.sample(layers, k)
        else:
            chosen = layers[len(layers) - k :]
        result |= {(kind, layer) for layer in chosen}
    return result


def _plan(importance: Measured, kept: set[Key], share: bool) -> SharingPlan:
    split = {
        own: {
            kind: tuple(layer for layer in sorted(layers) if ((kind, layer) in kept) == own)
            for kind, layers in importance.parameters.items()
        }
        for own in (True, False)
    }
    sizes = importance.parameters
    own = sum(sizes[kind][layer] for kind, layers in split[True].items() for layer in layers)
    shared = sum(sizes[kind][layers[0]] for kind, layers in split[False].items() if share and layers)
    return SharingPlan(split[True], split[False], share, sum(sum(s.values()) for s in sizes.values()), own + shared)


def _listed(layers: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {kind: list(part) for kind, part in layers.items()}


def _layers(layers: tuple[int, ...]) -> str:
    return ("layers " if len(layers) > 1 else "layer ") + ", ".join(map(str, layers)) if layers else "no layer"
