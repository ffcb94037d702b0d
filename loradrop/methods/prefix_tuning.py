"""Prefix tuning: n trained keys and values precede the text in every layer.

Li and Liang 2021, arXiv 2101.00190. The keys and values are themselves the parameters (P-tuning
v2, arXiv 2110.07602). With `projection` a two-layer network computes them, which is the
reparametrisation of Li and Liang. They reach attention as a cache in front of the text, so the
text starts at position n, as in PEFT and P-tuning v2; the prefix itself has no position.

Some models cannot use a prefix: DeBERTa's disentangled attention needs a position for each key and
takes no cache, and layers with activation checkpointing take no cache in any family. A forward
pass that leaves the prefix out raises an error; it never returns a result.
"""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from loradrop.extras import extra
from loradrop.methods.virtual_tokens import VirtualTokens

# Transformers' name of the argument: from 5.24 on, and before
CACHE_NAMES = ("cache", "past_key_values")


class PrefixTuning(VirtualTokens):
    """Train a prefix of keys and values.

    Args:
        name: The method's name in results.
        virtual_tokens: The length n of the prefix.
        projection: Whether a network, as wide as the encoder, computes keys and values.
        init_std: The standard deviation of the initial keys and values, or with `projection` of the
            network's input.
        dropout: Dropout of the keys and values of each text, in [0, 1), as in P-tuning v2.
    """

    part = "prefix_encoder"

    def __init__(
        self, name: str, virtual_tokens: int, projection: bool, init_std: float, dropout: float
    ) -> None:
        super().__init__(name, virtual_tokens)
        if init_std < 0:
            raise ValueError(f"init_std must not be negative, got {init_std}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.projection, self.init_std, self.dropout = projection, init_std, dropout

    def install(self, model: PreTrainedModel) -> None:
        super().install(model)
        getattr(model, model.base_model_prefix).register_forward_hook(
            self._check_use, with_kwargs=True
        )

    def holder(self, encoder: PreTrainedModel) -> nn.Module:
        """Return the float32 prefix: n rows of (layers, 2, key/value heads, d_head)."""
        with extra("peft"):  # late: the import takes seconds
            from peft import PrefixEncoder, PrefixTuningConfig

        if cache_argument(encoder) is None:
            raise ValueError(
                f"{type(encoder).__name__} cannot be prefix-tuned: "
                "its attention takes no keys and values besides the text's"
            )
        self._check_checkpointing(encoder)
        layers, heads, size = self._shape(encoder)
        config = PrefixTuningConfig(
            num_virtual_tokens=self.virtual_tokens,
            token_dim=heads * size,
            num_layers=layers,
            encoder_hidden_size=encoder.config.hidden_size,
            prefix_projection=self.projection,
        )
        prefix = PrefixEncoder(config).to(encoder.get_input_embeddings().weight.device)
        nn.init.normal_(prefix.embedding.weight, std=self.init_std)
        return prefix

    def insert(self, encoder: PreTrainedModel, inputs: dict[str, Any], size: int) -> None:
        if encoder.training:  # checkpointing has no effect in evaluation
            self._check_checkpointing(encoder)
        layers, heads, width = self._shape(encoder)
        prefix = encoder.prefix_encoder(self.indices(encoder)).to(
            encoder.get_input_embeddings().weight.dtype
        )
        prefix = prefix.view(self.virtual_tokens, layers, 2, heads, width).permute(1, 2, 3, 0, 4)
        prefix = prefix[:, :, None].expand(-1, -1, size, -1, -1, -1)
        prefix = nn.functional.dropout(prefix, self.dropout, encoder.training)
        if inputs.get("position_ids") is not None:
            # only the text has positions
            inputs["position_ids"] = inputs["position_ids"][:, self.virtual_tokens :]
        # for each layer: keys and values, (batch, heads, n, d_head)
        cache = DynamicCache([tuple(layer) for layer in prefix])
        inputs[str(cache_argument(encoder))] = cache  # `holder` made sure that there is one

    def _check_checkpointing(self, encoder: PreTrainedModel) -> None:
        if encoder.is_activation_checkpointing:
            raise ValueError(
                f"{self.name} does not work with activation checkpointing, which leaves the prefix "
                "out; set backbone.gradient_checkpointing=false"
            )

    def _check_use(
        self, encoder: PreTrainedModel, args: tuple, inputs: dict[str, Any], output: Any
    ) -> None:
        """Raise RuntimeError unless every layer has appended the text's keys to the prefix's."""
        cache = inputs[str(cache_argument(encoder))]
        expected = self.virtual_tokens + inputs["input_ids"].shape[1]
        ignored = [
            i
            for i in range(encoder.config.num_hidden_layers)
            if cache.get_seq_length(i) != expected
        ]
        if ignored:
            raise RuntimeError(
                f"{self.name}: {type(encoder).__name__} left the prefix out in layers {ignored}: "
                f"this method does not know how Transformers {transformers.__version__} passes on "
                "keys and values"
            )

    @staticmethod
    def _shape(encoder: PreTrainedModel) -> tuple[int, int, int]:
        """Return the number of layers, the number of key/value heads, and the width of a head."""
        config = encoder.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return config.num_hidden_layers, heads, size


def cache_argument(encoder: PreTrainedModel) -> str | None:
    """Return the name of the argument for cached keys and values, None if the encoder has none."""
    parameters = inspect.signature(encoder.forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)
