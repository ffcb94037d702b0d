"""Prompt tuning: n trained embeddings precede the text's (Lester et al. 2021, arXiv 2104.08691).

They start as the embeddings of tokens drawn from the whole vocabulary (PEFT's SAMPLE_VOCAB; the
authors draw from the 5,000 most common tokens) and take the first n positions. Their outputs are
removed again, so the head pools the text's own first or last token as it does without them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from loradrop.extras import extra
from loradrop.methods.virtual_tokens import VirtualTokens


class PromptTuning(VirtualTokens):
    """Train embeddings in front of the text. The arguments are those of VirtualTokens."""

    part = "prompt_embedding"

    def install(self, model: PreTrainedModel) -> None:
        super().install(model)
        getattr(model, model.base_model_prefix).register_forward_hook(self._after)

    def holder(self, encoder: PreTrainedModel) -> nn.Module:
        """Return the float32 embeddings (n, d_embedding)."""
        with extra("peft"):  # late: the import takes seconds
            from peft import PromptEmbedding, PromptTuningConfig

        words = encoder.get_input_embeddings()
        config = PromptTuningConfig(
            num_virtual_tokens=self.virtual_tokens,
            token_dim=words.embedding_dim,
            num_transformer_submodules=1,
            prompt_tuning_init="SAMPLE_VOCAB",
        )
        return PromptEmbedding(config, words)

    def insert(self, encoder: PreTrainedModel, inputs: dict[str, Any], size: int) -> None:
        # (batch, tokens, d_embedding)
        text = encoder.get_input_embeddings()(inputs.pop("input_ids"))
        prompt = encoder.prompt_embedding(self.indices(encoder)).to(text.dtype).expand(size, -1, -1)
        inputs["inputs_embeds"] = torch.cat([prompt, text], dim=1)
        token_types = inputs.get("token_type_ids")
        if token_types is not None:
            inputs["token_type_ids"] = torch.cat(
                [token_types.new_zeros(size, self.virtual_tokens), token_types], dim=1
            )

    def _after(self, encoder: PreTrainedModel, args: tuple, output: Any) -> Any:
        """Remove the virtual tokens from the output; pool again if the encoder pools (BERT)."""
        output.last_hidden_state = output.last_hidden_state[:, self.virtual_tokens :]
        if getattr(encoder, "pooler", None) is not None:
            output.pooler_output = encoder.pooler(output.last_hidden_state)
        return output
