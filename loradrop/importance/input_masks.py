"""The masks that a batch holds, and which of its inputs each of them is about.

Names decide where transformers uses fixed names for masks (OWNERS). Otherwise shapes decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor

IGNORED = -100  # the label of a token that has no loss
TEXT = frozenset({"input_ids", "inputs_embeds"})
TARGET = frozenset({"decoder_input_ids", "decoder_inputs_embeds", "labels"})
# masks whose names do not follow from those of their inputs
OWNERS = {
    "attention_mask": TEXT,
    "decoder_attention_mask": TARGET,
    "pixel_mask": frozenset({"pixel_values"}),
    "pixel_attention_mask": frozenset({"pixel_values"}),
    "visual_attention_mask": frozenset({"visual_feats", "visual_embeds"}),
    "feature_attention_mask": frozenset({"input_features"}),
    "input_features_mask": frozenset({"input_features"}),
    "padding_mask": frozenset({"input_values"}),
    "encoder_attention_mask": frozenset({"encoder_hidden_states"}),
    "entity_attention_mask": frozenset({"entity_ids"}),
}
# what transformers calls masks that do not say what is padding
NO_PADDING = {"global_attention_mask", "bool_masked_pos", "mask_time_indices", "p_mask"}
NO_PADDING |= {"head_mask", "decoder_head_mask", "cross_attn_head_mask"}
NO_PADDING |= {"image_embeds_position_mask", "visual_pos_masks"}


@dataclass
class InputMask:
    """One mask of the current batch.

    Args:
        key: Its name in the batch.
        owners: The inputs whose positions it marks.
        mask: (rows, positions), not zero for what counts.
        certain: Whether `owners` is known from names, and not only guessed from shapes.
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


def padding_masks(inputs: Mapping[str, Tensor]) -> list[InputMask]:
    """Find the masks of a batch that say what is padding.

    Args:
        inputs: The tensors of the batch by the names of the model's arguments.
    """
    content = content_of(inputs)
    found = []
    for key, mask in inputs.items():
        inside, name = _split(key)
        if name == "labels" and f"{inside}decoder_attention_mask" not in inputs and _is_text(mask):
            # shifted to the right they are the decoder's input
            owners = frozenset(inside + target for target in TARGET)
            found.append(InputMask(key, owners, (mask != IGNORED).long()))
        if not is_mask(key):
            continue
        owners = OWNERS.get(name) or frozenset(
            name.replace("attention_mask", other)
            for other in ("input_ids", "inputs_embeds", "input_features")
        )
        owners = frozenset(inside + owner for owner in owners)
        certain = bool(owners & content) or name != "attention_mask"
        if not certain:
            owners = _alike(inputs, mask, content)
        if owners & content:
            found.append(InputMask(key, owners, mask, certain or len(owners) == 1))
    return found


def named_tensors(given: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch by name, those in dictionaries as `query.input_ids`."""
    for key, value in given.items():
        if isinstance(value, Tensor):
            yield f"{inside}{key}", value
        elif isinstance(value, Mapping):
            yield from named_tensors(value, f"{inside}{key}.")


def is_target(keys: Iterable[str]) -> bool:
    """Whether one of these inputs is the target of an encoder-decoder."""
    return any(_split(key)[1] in TARGET for key in keys)


def _split(key: str) -> tuple[str, str]:
    """The dictionary that holds an input, as a prefix (`query.`), and the input's own name."""
    parts = key.rpartition(".")
    return parts[0] + parts[1], parts[2]


def check_known(inputs: Mapping[str, Tensor], masks: Iterable[InputMask]) -> None:
    """Check that every mask of a batch is about an input, so that no padding counts by mistake.

    Args:
        inputs: The tensors of the batch by the names of the model's arguments.
        masks: The masks that are known, of padding_masks.

    Raises:
        ValueError: There is another one that is not the same everywhere.
    """
    known = {mask.key for mask in masks}
    for key, mask in inputs.items():
        name = _split(key)[1]
        unknown = "mask" in name and key not in known and name not in NO_PADDING
        if unknown and mask.dim() == 2 and len(mask.unique()) > 1:
            raise ValueError(
                f"{key} {tuple(mask.shape)} of a batch may say what is padding, and it cannot be"
                " told how: give token_mask, a function of the batch that returns what counts (not"
                " zero), or {'': None} if all counts"
            )


def target_mask(inputs: Mapping[str, Tensor]) -> InputMask:
    """Make the mask of the tokens that have a label, as generation learns them.

    Args:
        inputs: The tensors of the batch by the names of the model's arguments.

    Raises:
        ValueError: There are no labels of (batch, tokens).
    """
    labels, padding = inputs.get("labels"), inputs.get("attention_mask")
    if not _is_text(labels):
        raise ValueError(
            "average_over=target_tokens needs labels of (batch, tokens), with -100 for each token"
            " that is not a target"
        )
    targets = (labels != IGNORED).long()
    if padding is not None and padding.shape == targets.shape:
        targets = targets * padding
    content = content_of(inputs)
    owners = TEXT if TEXT & content else _alike(inputs, targets, content)
    return InputMask("labels", owners, targets, bool(TEXT & content) or len(owners) == 1)


def has_other_inputs(
    inputs: Mapping[str, Tensor], mask: InputMask, content: frozenset[str]
) -> bool:
    """Whether `content` has inputs with positions of their own besides those a mask is about."""
    others = [inputs[key] for key in content - mask.owners - {"labels"}]
    return any(value.shape != mask.mask.shape or value.is_floating_point() for value in others)


def _alike(inputs: Mapping[str, Tensor], mask: Tensor, content: frozenset[str]) -> frozenset[str]:
    """The inputs whose shape fits a mask of unknown owner. Token ids come first."""
    candidates = {key: inputs[key] for key in content if not is_target([key])}
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


def content_of(keys: Iterable[str]) -> frozenset[str]:
    """Return the inputs whose positions a layer sees: all but masks and position ids."""
    return frozenset(
        key
        for key in keys
        if "mask" not in (name := _split(key)[1]) and name not in ("position_ids", "cache_position")
    )


def is_mask(key: str) -> bool:
    """Whether an argument of this name is a mask of positions."""
    name = _split(key)[1]
    return name in OWNERS or "attention_mask" in name


def _is_text(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() == 2
