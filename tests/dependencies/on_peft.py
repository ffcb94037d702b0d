"""What is relied on in PEFT."""

from __future__ import annotations

import inspect
import re

import torch
from conftest import tiny_model

from dependencies.table import has, relies_on, takes


def peft_model(**settings: object) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["query"], **settings))


@relies_on(
    "peft",
    "peft.tuners.lora.layer",
    "this module holds LoraLayer, the base class of all LoRA layers",
)
def _():
    from peft.tuners.lora.layer import LoraLayer

    assert sum(isinstance(module, LoraLayer) for module in peft_model().modules()) == 3


@relies_on(
    "peft",
    "adapter_layer_names",
    "a LoRA layer keeps its parts by the adapter's name under these attributes",
)
def _():
    layer = peft_model().base_model.model.roberta.encoder.layer[0].attention.self.query
    has(
        layer,
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "r",
        "scaling",
        "use_dora",
        "lora_variant",
        "lora_bias",
    )
    has(
        layer,
        "adapter_layer_names",
        "other_param_names",
        "active_adapters",
        "_active_adapter",
        "disable_adapters",
        "merged_adapters",
        "get_base_layer",
    )
    assert layer.lora_A["default"].weight.shape == (2, 32) and layer.lora_B[
        "default"
    ].weight.shape == (32, 2)
    assert (
        layer.r["default"] == 2
        and layer.scaling["default"] == 4
        and layer.active_adapters == ["default"]
    )
    assert (
        not layer.use_dora.get("default")
        and not layer.lora_variant
        and not layer.lora_bias.get("default")
    )
    assert {"lora_A", "lora_B"} <= set(layer.adapter_layer_names) and {"r", "scaling"} <= set(
        layer.other_param_names
    )


@relies_on("peft", "layer.lora_variant", "DoRA's layers say so in use_dora or lora_variant")
def _():
    layer = peft_model(use_dora=True).base_model.model.roberta.encoder.layer[0].attention.self.query
    assert layer.use_dora.get("default") or "default" in layer.lora_variant


@relies_on(
    "peft",
    '"peft_config"',
    "configs by adapter's name; a PeftModel has get_base_model and merge_and_unload",
)
def _():
    model = peft_model()
    assert list(model.peft_config) == ["default"] and isinstance(model.peft_config, dict)
    has(model, "get_base_model", "merge_and_unload")
    takes(model.merge_and_unload, "adapter_names")
    has(
        model.peft_config["default"],
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
    )


@relies_on(
    "peft",
    "_active_adapter",
    "a module of modules_to_save uses its own where no adapter is active",
)
def _():
    wrapper = peft_model(modules_to_save=["classifier"]).base_model.model.classifier
    x = torch.zeros(1, 1, 32)
    assert wrapper._active_adapter in ("default", ["default"])
    assert wrapper.adapter_layer_names == ("modules_to_save",)
    torch.nn.init.ones_(wrapper.modules_to_save["default"].out_proj.bias)
    assert not torch.equal(wrapper(x), wrapper.original_module(x))
    wrapper._active_adapter = []
    assert torch.equal(wrapper(x), wrapper.original_module(x))


@relies_on(
    "peft",
    "OUT_OF_THE_BASE",
    "initial values that change the base go by these names, and PEFT has no others",
)
def _():
    from peft import LoraConfig
    from peft.tuners.lora.layer import LoraLayer

    from loradrop.lora.peft_layer import OUT_OF_THE_BASE

    source = inspect.getsource(LoraLayer.update_layer)
    assert [name for name in OUT_OF_THE_BASE if f'"{name}"' not in source] == []
    known = str(inspect.signature(LoraConfig).parameters["init_lora_weights"].annotation)
    # the last one is a variant, which is refused as such
    harmless = {"gaussian", "eva", "orthogonal", "mica"}
    names = set(re.findall(r"'(\w+)[^']*'", known)) | set(
        re.findall(r'init_lora_weights(?:\.lower\(\))? == "(\w+)"', source)
    )
    new = {name for name in names - harmless if not name.startswith(OUT_OF_THE_BASE)}
    assert not new, f"does {new} change the base weights?"


@relies_on(
    "peft",
    "get_peft_model_state_dict",
    "files name a matrix <module>.lora_A.weight, without the adapter",
)
def _():
    from peft import get_peft_model_state_dict

    names = list(get_peft_model_state_dict(peft_model()))
    assert len(names) == 6 and all(
        re.search(r"\.query\.lora_[AB]\.weight$", name) for name in names
    ), names


@relies_on(
    "peft",
    "PrefixEncoder(config)",
    "one row of all layers' keys and values a virtual token, in `embedding`",
)
def _():
    from peft import PrefixEncoder, PrefixTuningConfig

    config = PrefixTuningConfig(
        num_virtual_tokens=5, token_dim=8, num_layers=3, encoder_hidden_size=8
    )
    assert PrefixEncoder(config).embedding.weight.shape == (5, 3 * 2 * 8)


@relies_on(
    "peft", "PromptEmbedding(config", "SAMPLE_VOCAB takes rows of the vocabulary's embedding"
)
def _():
    from peft import PromptEmbedding, PromptTuningConfig

    words = torch.nn.Embedding(9, 4)
    config = PromptTuningConfig(
        num_virtual_tokens=3,
        token_dim=4,
        num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
    )
    prompt = PromptEmbedding(config, words).embedding.weight
    assert prompt.shape == (3, 4) and all((words.weight == row).all(dim=1).any() for row in prompt)


@relies_on(
    "peft", "rankallocator", "AdaLoRA's scores, schedule and layers are kept under these attributes"
)
def _():
    from peft import AdaLoraConfig, AdaLoraModel

    from loradrop.methods.adalora import SCORES

    config = AdaLoraConfig(init_r=3, target_r=2, target_modules=["query"], total_step=10)
    tuner = AdaLoraModel(tiny_model(), config, "default")
    has(tuner.rankallocator, *SCORES)
    has(tuner.peft_config["default"], "total_step", "tinit", "tfinal", "rank_pattern")
    has(tuner, "update_and_allocate")
    layers = [module for module in tuner.model.modules() if hasattr(module, "lora_E")]
    assert len(layers) == 3
    has(layers[0], "lora_A", "lora_B", "ranknum", "in_features", "out_features")
    assert layers[0].lora_B["default"].shape == (32, 3) and layers[0].lora_A["default"].shape == (
        3,
        32,
    )
