"""Select: which layers keep their own LoRA (LoRA-drop, arXiv 2402.07721, Sections 3 and 4.4).

Pure Python. Layers in descending y until the sum reaches T; the layer that crosses T is kept; T = 1
keeps all. Every module type is selected for itself, or all types are ranked together. Alternatively
the largest set of kept layers is taken whose parameters, the shared LoRA included, stay within a
ratio of plain LoRA's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

from loradrop.plan import Key, SharingPlan

STRATEGIES = ("largest", "smallest", "unselected", "random", "upper_layers")


class Measured(Protocol):
    """What `select` reads of an Importance."""

    @property
    def values(self) -> Mapping[str, Mapping[int, float]]: ...

    @property
    def parameters(self) -> Mapping[str, Mapping[int, int]]: ...

    @property
    def normalized(self) -> Mapping[str, Mapping[int, float]]: ...


@dataclass(frozen=True)
class SelectionSettings:
    """How to choose the layers that keep their own LoRA.

    Raises:
        ValueError: A number is out of range, or not exactly one size is given.

    Args:
        threshold: T in (0, 1]: layers are kept in descending importance until their sum reaches T.
        parameter_ratio: Or, in (0, 1], the fraction of LoRA's parameters that the plan may have.
        num_layers: Or the number of kept layers of each module type.
        across_module_types: Rank the layers of all module types together.
        strategy: Which layers keep their own, as many of each type as LoRA-drop would keep: the
            `largest` (LoRA-drop); for the ablations of Section 4.4 the `smallest` or the
            `unselected` ones (both readings of "inv"), some at `random`, or the `upper_layers`.
        share: The other layers share one LoRA of each module type; False: they have none.
    """

    threshold: float | None = None
    parameter_ratio: float | None = None
    num_layers: int | None = None
    across_module_types: bool = False
    strategy: str = "largest"
    share: bool = True

    def __post_init__(self) -> None:
        sizes = {"threshold": self.threshold, "parameter_ratio": self.parameter_ratio}
        if sum(given is not None for given in (*sizes.values(), self.num_layers)) != 1:
            raise ValueError(
                "give one of threshold, parameter_ratio and num_layers; the others are null"
            )
        for name, limit in sizes.items():
            if limit is not None and not 0 < limit <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {limit}")
        if not isinstance(self.num_layers, Integral | None):
            raise ValueError(f"num_layers must be a whole number, got {self.num_layers!r}")
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {self.num_layers}")
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, got '{self.strategy}'"
            )
        if self.strategy == "unselected" and self.threshold is None:
            raise ValueError(
                "strategy=unselected keeps what a threshold would leave out: give a threshold"
            )


def select(
    importance: Measured,
    seed: int = 0,
    ranking: Mapping[str, Mapping[int, float]] | None = None,
    **settings: Any,
) -> SharingPlan:
    """Choose the layers that keep their own LoRA. Ties go to the lower layer.

    Args:
        importance: The result of measure.
        seed: The seed of the `random` strategy.
        ranking: Other values by module type and layer, which rank the layers in place of the
            importance. The importance then only says how many layers of each type are kept.
        settings: Those of SelectionSettings: one of `threshold` (T), `parameter_ratio` and
            `num_layers`, and any others that differ from their defaults.

    Raises:
        TypeError: Not an Importance, or an unknown setting.
        ValueError: A number out of range, an unknown strategy, importances that are all zero, a
            ranking of other layers, a parameter_ratio smaller than the shared LoRAs alone need, or
            no layer left with a LoRA.
    """
    chosen = SelectionSettings(**settings)
    if not hasattr(importance, "normalized"):
        raise TypeError(
            f"select needs an Importance, as measure returns it, got {type(importance).__name__}"
        )
    kept: set[Key] = set()
    for group in _groups(importance, chosen.across_module_types):
        ranked = sorted(group, key=lambda key: (-group[key], key[1]))
        kept.update(ranked[: _count(importance, group, ranked, chosen)])
    if not kept and not chosen.share:
        raise ValueError(
            f"parameter_ratio {chosen.parameter_ratio} is too small: no layer would have a LoRA"
        )
    values = importance.values
    if ranking is not None:
        if _keys(ranking) != _keys(values):
            wrong = ", ".join(f"{kind} {i}" for kind, i in sorted(_keys(ranking) ^ _keys(values)))
            raise ValueError(
                f"ranking must have the layers of the importance; not in both: {wrong}"
            )
        values, kept = ranking, _highest(ranking, kept)
    kept = _by_strategy(values, kept, chosen.strategy, seed)
    if not kept and not chosen.share:
        raise ValueError(
            f"strategy={chosen.strategy} leaves no layer with a LoRA: share=True, or a lower"
            " threshold"
        )
    return _plan(importance, kept, chosen.share)


def _count(
    importance: Measured, group: Mapping[Key, float], ranked: list[Key], settings: SelectionSettings
) -> int:
    """The number of ranked layers that keep their own."""
    if settings.threshold is not None:
        return _reach(group, ranked, settings.threshold)
    if settings.parameter_ratio is not None:
        return _afford(importance, ranked, settings.parameter_ratio, settings.share)
    if settings.num_layers is None or settings.num_layers > len(ranked):
        raise ValueError(
            f"num_layers must not exceed the {len(ranked)} layers there are, got"
            f" {settings.num_layers}"
        )
    return settings.num_layers


def _groups(importance: Measured, across_module_types: bool) -> list[dict[Key, float]]:
    """The normalised importances in groups that are ranked together: each module type, or all."""
    by_type = importance.normalized  # refuses values that are all zero or not finite
    if not across_module_types:
        return [{(kind, i): y for i, y in layers.items()} for kind, layers in by_type.items()]
    total = math.fsum(g for layers in importance.values.values() for g in layers.values())
    return [
        {
            (kind, i): g / total
            for kind, layers in importance.values.items()
            for i, g in layers.items()
        }
    ]


def _reach(group: Mapping[Key, float], ranked: list[Key], threshold: float) -> int:
    """The number of ranked layers whose sum reaches the threshold."""
    if threshold == 1:
        return len(ranked)  # also the layers whose importance is lost in the rounding of the sum
    # the tolerance keeps a sum that equals T on paper (0.5 + 0.25 + 0.15) from missing it by
    # rounding
    return next(
        k
        for k in range(1, len(ranked) + 1)
        if math.fsum(group[key] for key in ranked[:k]) >= threshold - 1e-9
    )


def _afford(importance: Measured, ranked: list[Key], parameter_ratio: float, share: bool) -> int:
    """The largest number of ranked layers that can keep their own within the ratio."""
    sizes = {key: importance.parameters[key[0]][key[1]] for key in ranked}
    allowed = parameter_ratio * sum(sizes.values()) + 1e-6
    for k in range(len(ranked), -1, -1):
        own = sum(sizes[key] for key in ranked[:k])
        shared = {key[0]: sizes[key] for key in ranked[k:]} if share else {}
        if own + sum(shared.values()) <= allowed:
            return k
    raise ValueError(
        f"parameter_ratio {parameter_ratio} is too small: the shared LoRAs alone need"
        f" {sum(shared.values()) / sum(sizes.values()):.3f}"
    )


def _keys(values: Mapping[str, Mapping[int, float]]) -> set[Key]:
    return {(kind, layer) for kind, layers in values.items() for layer in layers}


def _highest(ranking: Mapping[str, Mapping[int, float]], selected: set[Key]) -> set[Key]:
    """As many layers of each module type as were selected, those that rank highest."""
    highest: set[Key] = set()
    for kind, values in ranking.items():
        k = sum((kind, layer) in selected for layer in values)
        order = sorted(values, key=lambda layer: (-values[layer], layer))
        highest |= {(kind, layer) for layer in order[:k]}
    return highest


def _by_strategy(
    ranking: Mapping[str, Mapping[int, float]], selected: set[Key], strategy: str, seed: int
) -> set[Key]:
    """The layers that keep their own under an ablation, as many of each module type as were
    selected.
    """
    if strategy == "largest":
        return selected
    draw = random.Random(seed)
    result: set[Key] = set()
    for kind, values in ranking.items():
        layers = sorted(values)
        k = sum((kind, layer) in selected for layer in layers)
        if strategy == "unselected":
            chosen = [layer for layer in layers if (kind, layer) not in selected]
        elif strategy == "smallest":
            chosen = sorted(layers, key=lambda layer: (values[layer], layer))[:k]
        elif strategy == "random":
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
    shared = sum(
        sizes[kind][layers[0]] for kind, layers in split[False].items() if share and layers
    )
    return SharingPlan(
        split[True], split[False], share, sum(sum(s.values()) for s in sizes.values()), own + shared
    )
