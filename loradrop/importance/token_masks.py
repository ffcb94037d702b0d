"""Which positions of a module's input count in a measurement.

A mask belongs to the input that it was made for, and a module gets the mask of the input that its
own x is made of (see `lineage`):

- what is made of the text gets `attention_mask`;
- what is made of an encoder-decoder's target gets `decoder_attention_mask`, or labels of -100;
- what is made of audio gets the mask of samples, mapped to frames as the model does it;
- all positions of other inputs count, such as the patches of an image.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.audio import audio_frames
from loradrop.importance.input_masks import (
    TARGET,
    TEXT,
    InputMask,
    check_known,
    content_of,
    has_other_inputs,
    is_mask,
    is_target,
    named_tensors,
    padding_masks,
    target_mask,
)
from loradrop.importance.lineage import SWAPPED, UNKNOWN, Lineage
from loradrop.importance.told_masks import ToldMasks
from loradrop.lora.sites import Site

ALONE = "average_over=target_tokens is for decoders alone"


class TokenMask:
    """Finds the right mask of the current batch for the input of every module.

    Args:
        model: The model that is measured.
        targets_only: Whether only tokens with a label count.
        told: The masks that the user has given for some modules.

    Raises:
        ValueError: `targets_only` for an encoder-decoder.
    """

    def __init__(self, model: nn.Module, targets_only: bool, told: ToldMasks) -> None:
        if targets_only and _is_encoder_decoder(model):
            raise ValueError(f"{ALONE}: an encoder-decoder's encoder sees no targets")
        self.model, self.targets_only, self.told = model, targets_only, told
        self.lineage = Lineage(model)
        self.names = _argument_names(model)
        self.inputs: dict[str, Tensor] = {}
        self.masks: list[InputMask] = []

    def read(self, batch: Any) -> Any:
        """Take the masks from a batch.

        Args:
            batch: The model's keyword arguments as a dictionary, or its positional ones as a list.

        Returns:
            The batch to call the model with, whose tensors `lineage` knows.

        Raises:
            TypeError: Token ids or a mask that is no tensor.
            ValueError: Token ids that are not (batch, tokens), no labels to be the targets, a mask
                of which it is not known what it is about.
        """
        marked = self.lineage.marked(batch, self.names)
        given = marked if isinstance(marked, dict) else dict(zip(self.names, marked, strict=False))
        for key in ("input_ids", "decoder_input_ids", *(key for key in given if is_mask(key))):
            _check_tensor(key, given.get(key), must_be_text=not self.told and key in TEXT | TARGET)
        self.told.read(batch)
        self.inputs = dict(named_tensors(given))
        self.masks = [target_mask(self.inputs)] if self.targets_only else padding_masks(self.inputs)
        if not self.targets_only and not self.told:
            check_known(self.inputs, self.masks)
        return marked

    def of(self, site: Site, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Find which positions of a module's input count.

        Args:
            site: The module.
            x: (rows, positions, d_in), or with rows and positions merged.

        Returns:
            x, its positions in the order of the mask; the mask, with a row for each example; and
            whether x is the same for every batch, so that it has no mask (DeBERTa's relative
            positions, learned queries).

        Raises:
            ValueError: It is not clear which positions are padding, or a mask of the user does not
                fit.
        """
        made_of = self.lineage.of(x)
        content = content_of(made_of - {UNKNOWN, SWAPPED})
        everything = self._by_row(x)
        if not content and UNKNOWN not in made_of:
            return x, everything, True
        if self.told.about(site):
            told = self.told.of(site, x)
            return x, everything if told is None else told, False
        unseen = not content  # it was made in a custom kernel
        content = content or content_of(self.inputs)
        x, mask = self._fitting(site, x, content, unseen, SWAPPED in made_of)
        return x, everything if mask is None else mask, False

    def _fitting(
        self, site: Site, x: Tensor, content: frozenset[str], unseen: bool, swapped: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The mask of the inputs that x is made of, None if all positions count; see `of`."""
        about = [mask for mask in self.masks if mask.owners & content]
        if is_target(content):
            about = [mask for mask in about if is_target(mask.owners)]
        if self.targets_only and not about:
            raise ValueError(
                f"{ALONE}: {site.name} sees no targets, but {_listed(content)};"
                f" {self.told.remedy(site)}"
            )
        masked = [mask for mask in about if not mask.counts_all]
        if not masked and not self.targets_only:
            return x, None
        for mask in about:
            if not mask.certain and not mask.owners <= content:
                break  # there are two stacks, and the mask may be either one's
            if unseen and has_other_inputs(self.inputs, mask, content):
                break
            turned = x.dim() == 3 and x.shape[:2] == mask.mask.shape[::-1]  # as XLNet does
            if turned and (swapped or not holds_tokens(x, mask.mask)):
                return x.transpose(0, 1), mask.mask
            if holds_tokens(x, mask.mask):
                return x, mask.mask
        if not self.targets_only:
            if (
                x.dim() == 2 and len(x) == self._rows()
            ):  # one vector for each example, as in a pooler
                return x, None
            frames = (audio_frames(self.model, site, x, mask.mask) for mask in masked)
            found = next((mask for mask in frames if mask is not None), None)
            if found is not None:
                return x, found
        shown = ", ".join(f"{mask.key} {tuple(mask.mask.shape)}" for mask in about)
        raise ValueError(
            f"{site.name}: it cannot be told from {shown} which positions of its input"
            f" {tuple(x.shape)}, made of {_listed(content)}, are padding:"
            f" {self.told.remedy(site)}"
        )

    def _rows(self) -> int:
        return next((len(value) for value in self.inputs.values() if value.dim()), 0)

    def _by_row(self, x: Tensor) -> Tensor:
        """A mask of ones for x, with one row per example where rows can be told apart."""
        rows, positions = self._rows(), x.shape[:-1].numel()
        shape = (rows, -1) if rows and positions and positions % rows == 0 else x.shape[:-1]
        return torch.ones(x.shape[:-1], device=x.device).reshape(shape)


def holds_tokens(x: Tensor, mask: Tensor) -> bool:
    """Whether a mask (rows, positions) fits x (rows, positions, d_in).

    The first two axes of x may be merged.
    """
    return x.shape[:-1] in (mask.shape, (mask.numel(),))


def _is_encoder_decoder(model: nn.Module) -> bool:
    configs = (getattr(module, "config", None) for module in model.modules())
    return any(getattr(config, "is_encoder_decoder", False) is True for config in configs)


def _argument_names(model: nn.Module) -> list[str]:
    """The names of a model's positional arguments. A PEFT model takes any, so its base counts."""
    found: Any = model
    base = found.get_base_model() if hasattr(model, "get_base_model") else found
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, value in inspect.signature(base.forward).parameters.items()
        if value.kind in kinds
    ]


def _check_tensor(key: str, value: Any, must_be_text: bool) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{key} of a batch must be a tensor, got {type(value).__name__}: put rows together (a"
            " collator)"
        )
    if must_be_text and value.dim() != 2:
        raise ValueError(f"{key} must be (batch, tokens), got {tuple(value.shape)}")


def _listed(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys)).replace("<", "").replace(">", "")
