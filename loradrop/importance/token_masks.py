"""Which tokens of a batch count in a measurement: those that are no padding, or the targets alone.

An encoder-decoder (T5, BART, Whisper) has two texts. Its decoder's modules see the target, apart from the keys and values
of cross-attention, which are made of the encoder's output and so of the source. DeBERTa applies its projections to relative
positions, too, which are no tokens. Torch only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

IGNORED = -100  # a label that no loss is taken of


class TokenMask:
    """The masks (batch, tokens) of the batch under way, ones for what counts; None where all does."""

    def __init__(self, model: nn.Module, targets_only: bool) -> None:
        self.targets_only = targets_only
        self.decoder = decoder_of(model)
        self.decoding = set() if self.decoder is None else set(self.decoder.modules())
        if targets_only and self.decoder is not None:
            raise ValueError(
                "average_over=target_tokens is for decoders alone: an encoder-decoder's encoder sees no targets"
            )
        self.source: Tensor | None = None
        self.target: Tensor | None = None
        self.encoded: Tensor | None = None  # the encoder's output
        self.positions: Tensor | None = None  # DeBERTa's relative ones
        self.of_positions = [m for name, m in model.named_modules() if name.endswith(".pos_dropout")]

    def read(self, inputs: Mapping[str, Any]) -> None:
        """Take the masks from a batch's keyword arguments. ValueError or TypeError: what is no (batch, tokens)."""
        self.source = _tokens(inputs, "attention_mask")
        ids = _tokens(inputs, "input_ids")
        if self.source is None and ids is not None:
            self.source = torch.ones_like(ids)
        if self.targets_only:
            labels = inputs.get("labels")
            if not _is_text(labels):
                raise ValueError(
                    "average_over=target_tokens needs labels of (batch, tokens), -100 where a token is no target"
                )
            targets = (labels != IGNORED).long()
            self.source = targets if self.source is None else self.source * targets
        if self.decoder is not None:
            self.target = self._target(inputs)

    def of(self, module: nn.Module, x: Tensor) -> Tensor | None:
        """The mask of what a module is applied to."""
        return self.target if module in self.decoding and x is not self.encoded else self.source

    def counts(self, module: nn.Module, x: Tensor) -> bool:
        """Is x made of tokens, and one that the mask is about?"""
        # by memory: a batch of one text may be as long as there are relative positions
        if self.positions is not None and x.untyped_storage().data_ptr() == self.positions.untyped_storage().data_ptr():
            return False
        mask = self.of(module, x)
        return mask is None or holds_tokens(x, mask)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The encoder's output and relative positions are known inside the block."""

        def encoded(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.encoded = kwargs.get("encoder_hidden_states")

        def positions(dropout: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self.positions = output

        handles = [module.register_forward_hook(positions) for module in self.of_positions]
        if self.decoder is not None:
            handles.append(self.decoder.register_forward_pre_hook(encoded, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.encoded = self.positions = None

    def _target(self, inputs: Mapping[str, Any]) -> Tensor | None:
        mask, labels = _tokens(inputs, "decoder_attention_mask"), inputs.get("labels")
        if mask is not None:
            return mask
        if _is_text(labels):  # shifted to the right they are the decoder's input
            return (labels != IGNORED).long()
        ids = _tokens(inputs, "decoder_input_ids")
        return self.source if ids is None else torch.ones_like(ids)  # with neither, BART and T5 take the source's ids


def decoder_of(model: nn.Module) -> nn.Module | None:
    """The decoder of an encoder-decoder of transformers, bare or inside another module; None where there is none."""
    configs = (getattr(module, "config", None) for module in model.modules())
    if not any(getattr(config, "is_encoder_decoder", False) is True for config in configs):
        return None
    return next((module for name, module in model.named_modules() if name.rpartition(".")[2] == "decoder"), None)


def holds_tokens(x: Tensor, mask: Tensor) -> bool:
    """Is x (..., d_in) what a mask (batch, tokens) is about, as (batch, tokens, d_in) or with the first two made one?"""
    return x.shape[:-1] in (mask.shape, (mask.numel(),))


def _is_text(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() == 2


def _tokens(inputs: Mapping[str, Any], key: str) -> Tensor | None:
    value = inputs.get(key)
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{key} of a batch must be a tensor, got {type(value).__name__}: put rows together (a collator)")
    if value.dim() != 2:
        raise ValueError(f"{key} must be (batch, tokens), got {tuple(value.shape)}")
    return value
