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
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from loradrop.importance.audio import audio_frames
from loradrop.importance.lineage import CONSTANT, SWAPPED, UNKNOWN, Lineage
from loradrop.importance.told_masks import ToldMasks
from loradrop.lora.sites import Site

IGNORED = -100  # a label that no loss is taken of
TEXT = frozenset({"input_ids", "inputs_embeds"})
TARGET = frozenset({"decoder_input_ids", "decoder_inputs_embeds", "labels"})
# masks that are not called after the input that they are about
OWNERS = {
    "attention_mask": TEXT,
    "decoder_attention_mask": TARGET,
    "pixel_mask": frozenset({"pixel_values"}),
    "pixel_attention_mask": frozenset({"pixel_values"}),
    "visual_attention_mask": frozenset({"visual_feats", "visual_embeds"}),
    "feature_attention_mask": frozenset({"input_features"}),
    "input_features_mask": frozenset({"input_features"}),
    "padding_mask": frozenset({"input_values"}),
}
ALONE = "average_over=target_tokens is for decoders alone"


@dataclass
class InputMask:
    """One mask of the batch under way.

    Args:
        key: What it is called in the batch.
        owners: The inputs that it is about.
        mask: (rows, positions), not zero for what counts.
        certain: Whether `owners` follow from names rather than from shapes.
    """

    key: str
    owners: frozenset[str]
    mask: Tensor
    certain: bool = True
    _all: bool | None = None

    @property
    def counts_all(self) -> bool:
        """Whether nothing is masked."""
        if self._all is None:
            self._all = bool((self.mask == 1).all())
        return self._all


class TokenMask:
    """The masks of the batch under way, for every module's input the right one.

    Args:
        model: The model that is measured.
        targets_only: Whether only tokens with a label count.
        told: What the user says of some modules.

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
            ValueError: Token ids that are not (batch, tokens), no labels to be the targets.
        """
        marked = self.lineage.marked(batch, self.names)
        given = marked if isinstance(marked, dict) else dict(zip(self.names, marked, strict=False))
        for key in ("input_ids", "decoder_input_ids", *(key for key in given if _is_mask(key))):
            _check_tensor(key, given.get(key), must_be_text=not self.told and key in TEXT | TARGET)
        self.told.read(batch)
        self.inputs = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        content = frozenset(key for key in self.inputs if _is_content(key))
        self.masks = [*self._targets()] if self.targets_only else [*self._paddings(content)]
        return marked

    def of(self, site: Site, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Find what counts of a module's input.

        Args:
            site: The module.
            x: (rows, positions, d_in), or with rows and positions made one.

        Returns:
            x, its positions in the order of the mask; the mask, with a row for each example; and
            whether x is the same for every batch, so that it has no mask (DeBERTa's relative
            positions, learned queries).

        Raises:
            ValueError: It cannot be known which positions are padding, or the mask that the user
                has given does not fit.
        """
        made_of = self.lineage.of(x)
        content = frozenset(key for key in made_of - {UNKNOWN, SWAPPED} if _is_content(key))
        everything = self._by_row(x)
        if not content and UNKNOWN not in made_of:
            return x, everything, True
        if self.told.about(site):
            told = self.told.of(site, x)
            return x, everything if told is None else told, False
        unseen = not content  # in a kernel that is no function of torch
        content = content or frozenset(key for key in self.inputs if _is_content(key))
        x, mask = self._fitting(site, x, content, unseen, SWAPPED in made_of)
        return x, everything if mask is None else mask, False

    def _fitting(
        self, site: Site, x: Tensor, content: frozenset[str], unseen: bool, swapped: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The mask of what x is made of, None where all counts; see `of`."""
        about = [mask for mask in self.masks if mask.owners & content]
        if content & TARGET:
            about = [mask for mask in about if mask.owners & TARGET]
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
                break  # two stacks, and the mask of either
            if unseen and self._others(mask, content):
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
            f"{site.name}: which positions of its input {tuple(x.shape)}, made of"
            f" {_listed(content)}, are padding does not follow from {shown}:"
            f" {self.told.remedy(site)}"
        )

    def _paddings(self, content: frozenset[str]) -> list[InputMask]:
        found = []
        for key, mask in self.inputs.items():
            if not _is_mask(key):
                continue
            owners = OWNERS.get(key) or frozenset(
                key.replace("attention_mask", name)
                for name in ("input_ids", "inputs_embeds", "input_features")
            )
            certain = bool(owners & content) or key != "attention_mask"
            if not certain:
                owners = self._alike(mask, content)
            if owners & content:
                found.append(InputMask(key, owners, mask, certain or len(owners) == 1))
        if "decoder_attention_mask" not in self.inputs:
            labels = self.inputs.get("labels")
            if _is_text(labels):  # shifted to the right they are the decoder's input
                found.append(InputMask("labels", TARGET, (labels != IGNORED).long()))
        return found

    def _alike(self, mask: Tensor, content: frozenset[str]) -> frozenset[str]:
        """Inputs that a mask without a known owner can be about, by their shapes; ids first."""
        candidates = {key: self.inputs[key] for key in content - TARGET}
        ids = [
            key
            for key, value in candidates.items()
            if value.shape == mask.shape and not value.is_floating_point()
        ]
        long = [
            key
            for key, value in candidates.items()
            if mask.dim() == 2 and mask.shape[1] in value.shape[1:]
        ]
        return frozenset(ids or long or candidates)

    def _others(self, mask: InputMask, content: frozenset[str]) -> list[str]:
        """Inputs that have positions of their own besides those that a mask is about."""
        others = {key: self.inputs[key] for key in content - mask.owners - {"labels"}}
        return [
            k
            for k, value in others.items()
            if value.shape != mask.mask.shape or value.is_floating_point()
        ]

    def _targets(self) -> list[InputMask]:
        labels, padding = self.inputs.get("labels"), self.inputs.get("attention_mask")
        if not _is_text(labels):
            raise ValueError(
                "average_over=target_tokens needs labels of (batch, tokens), -100 where a token is"
                " no target"
            )
        targets = (labels != IGNORED).long()
        if padding is not None and padding.shape == targets.shape:
            targets = targets * padding
        content = frozenset(key for key in self.inputs if _is_content(key))
        owners = TEXT if TEXT & content else self._alike(targets, content)
        return [
            InputMask("labels", owners, targets, TEXT & content != CONSTANT or len(owners) == 1)
        ]

    def _rows(self) -> int:
        return next((len(value) for value in self.inputs.values() if value.dim()), 0)

    def _by_row(self, x: Tensor) -> Tensor:
        """Ones for all positions of x, in a row for each example if they can be told apart."""
        rows, positions = self._rows(), x.shape[:-1].numel()
        shape = (rows, -1) if rows and positions and positions % rows == 0 else x.shape[:-1]
        return torch.ones(x.shape[:-1], device=x.device).reshape(shape)


def holds_tokens(x: Tensor, mask: Tensor) -> bool:
    """Whether a mask (rows, positions) fits x (rows, positions, d_in).

    The first two axes of x may be made one.
    """
    return x.shape[:-1] in (mask.shape, (mask.numel(),))


def _is_encoder_decoder(model: nn.Module) -> bool:
    configs = (getattr(module, "config", None) for module in model.modules())
    return any(getattr(config, "is_encoder_decoder", False) is True for config in configs)


def _argument_names(model: nn.Module) -> list[str]:
    """Names of a model's positional arguments; of a PEFT model's base, since its own takes any."""
    found: Any = model
    base = found.get_base_model() if hasattr(model, "get_base_model") else found
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, value in inspect.signature(base.forward).parameters.items()
        if value.kind in kinds
    ]


def _is_mask(key: str) -> bool:
    return key in OWNERS or "attention_mask" in key


def _is_content(key: str) -> bool:
    """Whether an input has positions that a layer sees, unlike masks and numbers of positions."""
    return "mask" not in key and key not in ("position_ids", "cache_position")


def _is_text(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() == 2


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
