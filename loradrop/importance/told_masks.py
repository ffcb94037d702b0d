"""The user's own masks: the argument `token_mask` of `measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from loradrop.lora.sites import Site

Mask = Tensor | Callable[[Any], Tensor | None] | None
ANY = ""  # the part of a name that all modules have


class ToldMasks:
    """The masks of `token_mask`, and the modules that each applies to.

    Args:
        token_mask: A mask for all modules, or a dictionary {part of a name: mask}; see `measure`.
        sites: The modules that are measured.

    Raises:
        TypeError: A mask that is neither tensor, function nor None.
        ValueError: A part that no adapted module's name has.
    """

    def __init__(self, token_mask: Mask | Mapping[str, Mask], sites: Iterable[Site]) -> None:
        if token_mask is None:
            token_mask = {}
        self.masks = dict(token_mask) if isinstance(token_mask, Mapping) else {ANY: token_mask}
        for part, mask in self.masks.items():
            if not (mask is None or isinstance(mask, Tensor) or callable(mask)):
                raise TypeError(
                    "token_mask must hold tensors, functions of a batch, or None, got"
                    f" {type(mask).__name__} for '{part}'"
                )
        sites = list(sites)
        for part in self.masks:
            if not any(_end(site.name, part) for site in sites):
                raise ValueError(
                    f"token_mask: no adapted module lies in '{part}'; one of them is"
                    f" {sites[0].name}"
                )
        self.parts = {site: self._part(site) for site in sites}
        self.batch: Any = None
        self.values: dict[str, Tensor | None] = {}

    def __bool__(self) -> bool:
        return bool(self.masks)

    def read(self, batch: Any) -> None:
        """Keep the current batch. Each function of the user is called with it once."""
        self.batch, self.values = batch, {}

    def about(self, site: Site) -> bool:
        """Whether the user has given a mask for this module."""
        return self.parts[site] is not None

    def of(self, site: Site, x: Tensor) -> Tensor | None:
        """The mask of a module's input x (rows, positions, d_in); None if all of it counts.

        Raises:
            TypeError: A function returns neither a tensor nor None.
            ValueError: A mask of another shape than x.
        """
        part = self.parts[site]
        assert part is not None
        if part not in self.values:
            mask = self.masks[part]
            value = mask if mask is None or isinstance(mask, Tensor) else mask(self.batch)
            if not (value is None or isinstance(value, Tensor)):
                kind = type(value).__name__
                raise TypeError(
                    f"token_mask: the function for '{part}' must return a tensor or None, got"
                    f" {kind}"
                )
            self.values[part] = value
        value = self.values[part]
        if value is None:
            return None
        positions = x.shape[:-1]
        if value.numel() == positions.numel() and (
            positions == value.shape or 1 in (len(positions), value.dim())
        ):
            return value.reshape(positions) if value.dim() == 1 else value
        raise ValueError(
            f"token_mask: {tuple(value.shape)} for '{part}' does not fit the input {tuple(x.shape)}"
            f" of {site.name}; where batches differ, give a function of the batch"
        )

    def remedy(self, site: Site) -> str:
        """What the user can do if the mask of a module is not known."""
        stack = site.name.split(".")
        number = next((i for i, part in enumerate(stack) if part.isdigit()), len(stack))
        return (
            f"say so by token_mask={{'{'.'.join(stack[:number])}': a function of the batch, or None"
            " if all count}"
        )

    def _part(self, site: Site) -> str | None:
        """The key that matches nearest to the name's end, the longest of several; or None."""
        ends = {part: _end(site.name, part) for part in self.masks}
        found = [part for part, end in ends.items() if end]
        return max(found, key=lambda part: (ends[part], len(part)), default=None)


def _end(name: str, part: str) -> int:
    """Where in a dotted name a part of it ends, counted from 1; 0 if the name has no such part."""
    if part == ANY:
        return 1
    names, parts = name.split("."), part.split(".")
    ends = (i + len(parts) for i in range(len(names)) if names[i : i + len(parts)] == parts)
    return max(ends, default=0)
