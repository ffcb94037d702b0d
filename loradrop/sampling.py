"""Stratified samples of a training set (LoRA-drop, arXiv 2402.07721, Section 3: sampling ratio
alpha).

Classes are strata as they are; scores and lengths are first binned by quantiles, since the paper's
regression and generation tasks have no classes. Each stratum gives its share of the sample, and at
least one example.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any


def stratified_sample(strata: Sequence[Any], ratio: float, seed: int = 0) -> list[int]:
    """Indices, ascending, of a sample: from each stratum its share of round(ratio * n) examples,
    and at least one.

    `strata` holds the stratum of each example (its class, say), as a list, array or tensor. The
    same seed gives the same sample. ValueError: no examples, a ratio outside (0, 1], or scores that
    are not binned (quantile_bins), of which a sample of this size cannot hold each.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"sample ratio must lie in (0, 1], got {ratio}")
    if len(strata) == 0:
        raise ValueError("there are no examples to sample from")
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        # a tensor's hash is its address: equal ones would be strata of their own
        members[stratum.item() if hasattr(stratum, "item") else stratum].append(index)
    score = next((stratum for stratum in members if isinstance(stratum, float)), None)
    if score is not None and len(members) > max(1, round(ratio * len(strata))):
        raise ValueError(
            f"the strata are scores, {len(members)} different ones such as {score}: bin them first"
            " (loradrop.sampling.quantile_bins)"
        )
    draw = random.Random(seed)
    chosen = []
    for indices, quota in zip(
        members.values(), _quotas([len(m) for m in members.values()], ratio), strict=True
    ):
        chosen += draw.sample(indices, len(indices))[:quota]
    return sorted(chosen)


def quantile_bins(values: Sequence[float], bins: int = 10) -> list[int]:
    """The bin of each value, with edges at the quantiles; equal values share a bin, so there may be
    fewer bins.
    """
    ordered = sorted(values)
    edges = sorted({ordered[len(ordered) * k // bins] for k in range(1, bins)}) if ordered else []
    return [sum(value >= edge for edge in edges) for value in values]


def _quotas(sizes: Sequence[int], ratio: float) -> list[int]:
    """Proportional whole numbers by largest remainder, at least one each."""
    exact = [ratio * size for size in sizes]
    quotas = [max(1, int(share)) for share in exact]
    missing = round(ratio * sum(sizes)) - sum(quotas)
    by_remainder = sorted(range(len(sizes)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in by_remainder[: max(0, missing)]:
        quotas[i] = min(sizes[i], quotas[i] + 1)
    return quotas
