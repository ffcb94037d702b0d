"""A mask of audio samples, mapped to the frames that a speech model's layers see."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.sites import Site


def audio_frames(model: nn.Module, site: Site, x: Tensor, mask: Tensor) -> Tensor | None:
    """Map a mask of samples to frames, as the model itself does it.

    Args:
        model: A speech model of transformers, or any other, which has no such mapping.
        site: The module whose input x is; the mapping is that of the nearest module around it.
        x: (rows, frames, d_in).
        mask: (rows, samples), not zero for what is no padding.

    Returns:
        The mask (rows, frames); None where no mapping gives as many frames as x has.
    """
    if x.dim() != 3 or mask.dim() != 2:
        return None
    parts = site.name.split(".")
    around = [model.get_submodule(".".join(parts[:i])) for i in reversed(range(len(parts)))]
    for module in (*around, *model.modules()):
        lengths = getattr(module, "_get_feat_extract_output_lengths", None)
        if lengths is None:
            continue
        # with the adapter that some models have behind their encoder, and without it
        has_adapter = "add_adapter" in inspect.signature(lengths).parameters
        for options in ({"add_adapter": False}, {"add_adapter": True}) if has_adapter else ({},):
            frames = _mapped(module, lengths, x.shape[1], mask, options)
            if frames is not None:
                return frames
    return None


def _mapped(
    module: Any, lengths: Any, count: int, mask: Tensor, options: dict[str, bool]
) -> Tensor | None:
    to_frames: Any = getattr(module, "_get_feature_vector_attention_mask", None)
    if to_frames is not None:
        fits = int(lengths(torch.tensor(mask.shape[1]), **options)) == count
        return to_frames(count, mask, **options).long() if fits else None
    # Whisper has the lengths alone; of other models they are not what masks are made of
    if getattr(getattr(module, "config", None), "model_type", None) != "whisper":
        return None
    # lengths mean nothing if padding is not at the end
    in_front = bool((mask.diff(dim=-1) <= 0).all())
    if not in_front or lengths(mask.shape[1]) != count:
        return None
    return (torch.arange(count, device=mask.device) < lengths(mask.sum(-1))[:, None]).long()
