"""The common part of prompt tuning and prefix tuning: trained virtual tokens precede the text.

Both act in place on the encoder instead of through PEFT's PeftModel, which makes BERT and RoBERTa
pool the first virtual token and makes Llama pool the padding of a batch. PEFT's modules hold the
parameters.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loradrop.backbones import longest_text
from loradrop.methods.base import Method


class VirtualTokens(Method):
    """Base class; the recipe's `adapter_learning_rate` applies to the virtual tokens.

    Args:
        name: The method's name in results.
        virtual_tokens: The number n of virtual tokens.
    """

    part: str  # the encoder's attribute for the module with the parameters

    def __init__(self, name: str, virtual_tokens: int) -> None:
        super().__init__(name)
        if virtual_tokens < 1:
            raise ValueError(f"virtual_tokens must be at least 1, got {virtual_tokens}")
        self.virtual_tokens = self.extra_tokens = virtual_tokens

    def install(self, model: PreTrainedModel) -> None:
        # generating would insert the tokens again in the call for each new token
        if model.get_output_embeddings() is not None:
            raise ValueError(
                f"{self.name} is for tasks with labels; {type(model).__name__} generates text"
            )
        encoder = getattr(model, model.base_model_prefix)
        longest = longest_text(model.config)
        if longest and self.virtual_tokens >= longest:
            raise ValueError(
                f"virtual_tokens is {self.virtual_tokens}, but {type(model).__name__} takes at "
                f"most {longest} tokens in all"
            )
        # inside the encoder, as everything outside counts as the head
        encoder.add_module(self.part, self.holder(encoder))
        encoder.register_forward_pre_hook(self._before, with_kwargs=True)

    def holder(self, encoder: PreTrainedModel) -> nn.Module:
        """Create the module with the trained parameters."""
        raise NotImplementedError

    def insert(self, encoder: PreTrainedModel, inputs: dict[str, Any], size: int) -> None:
        """Put the virtual tokens into the encoder's arguments.

        Args:
            encoder: The encoder.
            inputs: Its arguments, changed in place. Mask and positions already include the
                virtual tokens.
            size: The number of texts in the batch.
        """
        raise NotImplementedError

    def indices(self, encoder: PreTrainedModel) -> Tensor:
        """Return the indices (n,) that PEFT's modules expect."""
        return torch.arange(
            self.virtual_tokens, device=encoder.get_input_embeddings().weight.device
        )

    def _before(
        self, encoder: PreTrainedModel, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """Return the encoder's arguments, with n more columns on the left of the mask."""
        inputs = (
            dict(zip(inspect.signature(encoder.forward).parameters, args, strict=False)) | kwargs
        )
        mask = inputs.get("attention_mask")
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), self.virtual_tokens), mask], dim=1)
            inputs["attention_mask"] = mask
            if hasattr(encoder, "rotary_emb"):
                # count without padding: padding on the left must not move the text away from the
                # virtual tokens. Families with learned positions are padded on the right.
                inputs["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        self.insert(encoder, inputs, len(inputs["input_ids"]))
        return (), inputs
