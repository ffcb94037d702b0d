"""Adapters in files, read and written by code of the tests' own; calls that must change nothing.

What a loaded model has to compute is worked out from the files alone: W + s B A in the base's
weights.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import tiny_model, train_b
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import loradrop

QUERY = "base_model.model.roberta.encoder.layer.1.attention.self.query"
HEAD = "base_model.model.classifier.out_proj.weight"


def state_of(model):
    """All that a refused call must leave alone."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        {name: type(module) for name, module in model.named_modules()},
        {name: module.training for name, module in model.named_modules()},
        {name: list(module._forward_pre_hooks) for name, module in model.named_modules()},
        hasattr(model, "peft_config"),
    )


def assert_same(before, after):
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
        assert tensor.dtype == after[0][name].dtype


def assert_refused(model, call, error, match):
    before = state_of(model)
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert_same(before, state_of(model))


def own_model(share=True):
    model = tiny_model()
    loradrop.add_lora(model, rank=4, alpha=10)
    train_b(model)
    model.classifier.requires_grad_(True)
    with torch.no_grad():
        model.classifier.out_proj.weight.add_(0.3)
    if share:
        plan = loradrop.select(
            loradrop.measure(model, [{"input_ids": torch.arange(3, 12)[None]}]), num_layers=1
        )
        loradrop.share(model, plan)
    return model


def peft_model(base=None, **settings):
    torch.manual_seed(5)
    options = {"r": 4, "target_modules": ["query", "value"], "init_lora_weights": False} | settings
    model = get_peft_model(base or tiny_model(), LoraConfig(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" not in name:
                parameter.add_(0.2)
    return model


def read_files(folder):
    """(config, tensors, which stand for others) from the files, by code of our own."""
    compact = (folder / "compact_config.json").exists()
    kind = "compact" if compact else "adapter"
    with safe_open(folder / f"{kind}_model.safetensors", "pt") as file:
        shared = json.loads((file.metadata() or {}).get("shared", "{}"))
    return (
        json.loads((folder / f"{kind}_config.json").read_text()),
        load_file(folder / f"{kind}_model.safetensors"),
        shared,
    )


def write_files(folder, config, state, shared=None):
    kind = "adapter" if shared is None else "compact"
    (folder / f"{kind}_config.json").write_text(json.dumps(config))
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    metadata = {"format": "pt"} if shared is None else {"shared": json.dumps(shared)}
    save_file(state, folder / f"{kind}_model.safetensors", metadata)


def expected_logits(base, config, state, batch):
    """The base with W + s B A in its weights and the files' other tensors in their places."""
    base = copy.deepcopy(base)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    with torch.no_grad():
        for name in [name for name in state if name.endswith(".lora_A.weight")]:
            A, B = state.pop(name).double(), state.pop(name.replace("lora_A", "lora_B")).double()
            rank = len(A) ** 0.5 if config.get("use_rslora") else len(A)
            weight = base.get_submodule(name.removesuffix(".lora_A.weight")).weight
            weight.copy_(weight.double() + config["lora_alpha"] / rank * B @ A)
    assert not base.load_state_dict(state, strict=False).unexpected_keys
    return base(**batch).logits
