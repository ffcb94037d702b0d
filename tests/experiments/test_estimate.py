"""The plan of a run: what it counts on the meta device is what a real step keeps; 4-bit weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from conftest import run_module, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.config.validation import check
from experiments.estimate import frozen_bytes, kept_for_backward
from loradrop.backbones import Backbone
from loradrop.lora.inject import add_lora

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
}


def llama(device):
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=64))
        add_lora(model, rank=4)
    return model


def batch(device):
    ids = torch.ones(2, 16, dtype=torch.int64, device=device)
    return {
        "input_ids": ids,
        "labels": ids,
        "attention_mask": torch.ones(2, 1, 16, 16, dtype=torch.bool, device=device),
    }


def test_the_meta_device_keeps_what_a_real_step_keeps():
    counted, real = (kept_for_backward(llama(device), batch(device)) for device in ("meta", "cpu"))
    # kernels of the CPU keep other odds and ends of attention
    assert counted == pytest.approx(real, rel=0.1) and counted > 3 * 2 * 16 * 64 * 4


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    once = kept_for_backward(llama("meta"), batch("meta"))
    twice = kept_for_backward(
        llama("meta"), {key: torch.cat([value, value]) for key, value in batch("meta").items()}
    )
    assert twice == pytest.approx(2 * once, rel=0.02)
    model = llama("meta")
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert kept_for_backward(model, batch("meta")) < 0.5 * once


def test_frozen_weights():
    model = tiny_model("llama").requires_grad_(False)
    assert frozen_bytes(model, False) == 4 * sum(p.numel() for p in model.parameters())
    linear = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))
    saved = frozen_bytes(model, False) - frozen_bytes(model, True)
    assert saved == pytest.approx(linear * (4 - 4.127 / 8), rel=0.001)


@pytest.mark.slow
def test_the_command_prints_steps_and_memory():
    done = run_module("experiments.estimate", "task=mini_sentiment", "method=lora,full")
    assert done.returncode == 0, done.stderr
    assert (
        "250 (2 epochs of 125 batches of 16; 2,000 rows)" in done.stdout
        and done.stdout.count("activations") == 2
    )
    wrong = run_module("experiments.estimate", "method=lora", "method.rank=0")
    assert (
        wrong.returncode == 1
        and "rank must be at least 1" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )


def backbone(**changes):
    return Backbone(
        **({"name": "x", "hub_id": "a/b", "revision": None, "dtype": "bfloat16"} | changes)
    )


def test_quantization_needs_its_library_and_a_known_name(monkeypatch):
    with pytest.raises(ValueError, match="quantization must be nf4 or null, got 'int3'"):
        backbone(quantization="int3")
    monkeypatch.setattr("loradrop.backbones.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs bitsandbytes: pip install 'loradrop\[quantization\]'"
    ):
        backbone(quantization="nf4")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_lora_on_four_bits(tmp_path):
    from helpers.generation import composed, save_model

    from experiments.runner.components import RunComponents

    save_model(tmp_path / "models")
    config = composed(tmp_path / "models", tmp_path, "method=lora", "backbone.quantization=nf4")
    model = RunComponents(check(config)).model
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer.base).__name__ == "Linear4bit" and layer.lora_A.dtype == torch.float32
    ids = torch.randint(3, 60, (2, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    assert layer.lora_B.grad.abs().max() > 0


@pytest.mark.slow
def test_a_model_that_is_not_at_hand_has_its_published_shape():
    done = run_module(
        "experiments.estimate",
        "backbone=llama2_7b",
        "task=mini_table2text",
        "method=lora",
        "paths.models=null",
    )
    assert done.returncode == 0, done.stderr
    # 6,738,415,616 bfloat16 numbers (its model card)
    assert "as published" in done.stdout and "12.55 GiB" in done.stdout
