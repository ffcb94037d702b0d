"""What is relied on in transformers' models."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES, tiny_model

from dependencies.table import encoder, has, relies_on


@relies_on(
    "transformers",
    "cache_argument",
    "an encoder's forward takes keys and values as `cache` or `past_key_values`",
)
def _():
    from loradrop.methods.prefix_tuning import CACHE_NAMES, cache_argument

    for family in ("roberta", "bert", "llama"):
        assert cache_argument(encoder(family)) in CACHE_NAMES, inspect.signature(
            encoder(family).forward
        )
    assert cache_argument(encoder("deberta")) is None


@relies_on(
    "transformers",
    "DynamicCache",
    "it takes (keys, values) of each layer and counts what layers add to it",
)
def _():
    keys = torch.zeros(1, 2, 3, 4)
    cache = transformers.DynamicCache([(keys, keys), (keys, keys)])
    cache.update(keys, keys, 1)
    assert [cache.get_seq_length(layer) for layer in (0, 1)] == [3, 6]


@relies_on(
    "transformers",
    "inspect.signature(encoder.forward)",
    "decorators keep the names and the order of arguments",
)
def _():
    for family in FAMILIES:
        names = list(inspect.signature(encoder(family).forward).parameters)
        assert (
            names[:2] == ["input_ids", "attention_mask"]
            and "position_ids" in names
            and "inputs_embeds" in names
        ), names


@relies_on(
    "transformers",
    "activation_checkpointing",
    "models can be told to recompute activations, and say that they do",
)
def _():
    model = tiny_model()
    assert not model.is_activation_checkpointing
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.is_activation_checkpointing


@relies_on(
    "transformers",
    "rotary_emb",
    "decoders with rotary positions, and they alone, have a module `rotary_emb`",
)
def _():
    assert [family for family in FAMILIES if hasattr(encoder(family), "rotary_emb")] == ["llama"]


@relies_on(
    "transformers",
    "pooler_output",
    "BERT's `pooler` turns last_hidden_state into pooler_output, which can be set",
)
def _():
    model = encoder("bert")
    output = model(input_ids=torch.tensor([[5, 6, 7]]))
    torch.testing.assert_close(output.pooler_output, model.pooler(output.last_hidden_state))
    output.pooler_output = None
    assert output.pooler_output is None


@relies_on(
    "transformers",
    "base_model_prefix",
    "it names the attribute that is the encoder, and begins its parameters' names",
)
def _():
    for family in FAMILIES:
        model = tiny_model(family)
        assert model.base_model is getattr(model, model.base_model_prefix)
        assert any(
            name.startswith(f"{model.base_model_prefix}.") for name, _ in model.named_parameters()
        )


@relies_on(
    "transformers",
    "get_output_embeddings",
    "None for a classifier, the language model's head for a decoder",
)
def _():
    assert (
        tiny_model("roberta").get_output_embeddings() is None
        and tiny_model("llama").get_output_embeddings() is None
    )
    decoder = transformers.LlamaForCausalLM(FAMILIES["llama"][1])
    assert decoder.get_output_embeddings() is decoder.lm_head


@relies_on(
    "transformers",
    "_get_feature_vector_attention_mask",
    "speech models map a mask of samples to frames by it",
)
def _():
    has(
        transformers.Wav2Vec2Model,
        "_get_feature_vector_attention_mask",
        "_get_feat_extract_output_lengths",
    )
    has(
        transformers.HubertModel,
        "_get_feature_vector_attention_mask",
        "_get_feat_extract_output_lengths",
    )
    has(transformers.WhisperModel, "_get_feat_extract_output_lengths")
    assert transformers.WhisperConfig.model_type == "whisper"


@relies_on(
    "transformers",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "the mappings of the Auto classes answer for a config's class",
)
def _():
    labels = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    text = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    assert all(type(config) in labels for _, config, _ in FAMILIES.values())
    assert [family for family, (_, config, _) in FAMILIES.items() if type(config) in text] == [
        "roberta",
        "bert",
        "llama",
    ]


@relies_on(
    "transformers",
    "_tied_weights_keys",
    "save_pretrained writes once what this attribute of a module ties",
)
def _():
    from safetensors.torch import load_file

    from loradrop import add_lora, select, share
    from loradrop.importance.measurement import uniform

    model = tiny_model()
    add_lora(model, rank=2, alpha=4)
    share(model, select(uniform(model), threshold=0.3))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        names = [
            name
            for name in load_file(Path(folder, "model.safetensors"))
            if name.endswith("query.lora_A")
        ]
    assert len(names) == 2, names  # one layer's own, one that two layers share


@relies_on(
    "transformers",
    "longest_text",
    "RoBERTa's positions start behind its padding index, BERT's at 0",
)
def _():
    from loradrop.backbones import longest_text

    for family in ("roberta", "bert"):
        model = encoder(family)
        longest = longest_text(model.config)
        model(input_ids=torch.full((1, longest), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


@relies_on(
    "transformers",
    "num_key_value_heads",
    "with num_attention_heads and head_dim it gives the width of keys",
)
def _():
    from loradrop.methods.prefix_tuning import PrefixTuning

    _, heads, size = PrefixTuning._shape(encoder("llama"))
    assert encoder("llama").layers[0].self_attn.k_proj.out_features == heads * size == 16


@relies_on("transformers", "output_loading_info=True", "from_pretrained reports `missing_keys`")
def _():
    with tempfile.TemporaryDirectory() as folder:
        encoder("roberta").save_pretrained(folder)
        _, report = FAMILIES["roberta"][0].from_pretrained(folder, output_loading_info=True)
    assert any(name.startswith("classifier.") for name in report["missing_keys"]), report


@relies_on(
    "transformers", '"name_or_path"', "a config says where its model came from, and can be told"
)
def _():
    config = transformers.RobertaConfig()
    config.name_or_path = "a/b"
    assert config.name_or_path == "a/b" and transformers.LlamaConfig().name_or_path == ""
