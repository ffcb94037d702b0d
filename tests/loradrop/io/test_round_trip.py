"""Precision survives a round trip through files, and both ways of loading compute the same."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, train_b
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import loradrop

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def base(dtype):
    return tiny_model().to(dtype)


def adapted(kind, base_type, lora_type, batch):
    """A model whose LoRA has a type of its own, with values that no narrower type holds, and a plan
    carried out.
    """
    torch.manual_seed(2)
    model = base(base_type)
    if kind == "own":
        loradrop.add_lora(model, rank=4, alpha=10)
        train_b(model)
    else:
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
        ).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (
                torch.randn(parameter.shape, dtype=torch.float64).mul(0.1).to(lora_type)
            )
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1)
    loradrop.share(model, plan)
    return model


def loras(model):
    """A and B in the model's order, whoever's they are."""
    return [p for n, p in model.named_parameters(remove_duplicate=False) if "lora_" in n]


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", ["own", "peft"])
@pytest.mark.parametrize("lora_type", TYPES)
@pytest.mark.parametrize("base_type", TYPES)
def test_lora_comes_back_in_its_own_type(base_type, lora_type, kind, compact, batch, tmp_path):
    model = adapted(kind, base_type, lora_type, batch)
    loradrop.save_pretrained(model, tmp_path, compact=compact)
    stored = load_file(tmp_path / f"{'compact' if compact else 'adapter'}_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {lora_type}
    for as_peft in (False, True):
        loaded = loradrop.from_pretrained(base(base_type), tmp_path, as_peft=as_peft).eval()
        pairs = list(zip(loras(model), loras(loaded), strict=True))
        assert all(a.dtype == b.dtype == lora_type and torch.equal(a, b) for a, b in pairs)
        assert loradrop.plan_of(loaded) == loradrop.plan_of(model)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("base_type", TYPES)
def test_both_ways_of_loading_compute_the_same_bits(base_type, batch, tmp_path):
    """The update is added before it is rounded to the base's type, as PEFT does."""
    model = adapted("own", base_type, torch.float32, batch)
    loradrop.save_pretrained(model, tmp_path)
    expected = model(**batch).logits
    assert expected.dtype == base_type
    theirs = PeftModel.from_pretrained(base(base_type), tmp_path).eval()
    if (
        base_type == torch.float64
    ):  # PEFT alone takes a float32 LoRA for one of the base's type, and computes in it
        torch.testing.assert_close(theirs(**batch).logits, expected, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(theirs(**batch).logits, expected)
    assert torch.equal(
        loradrop.from_pretrained(base(base_type), tmp_path)(**batch).logits, expected
    )


def test_loralib_keeps_its_type(batch):
    for dtype in TYPES:
        model = adapted("own", torch.float32, dtype, batch)
        state = {n: t for n, t in model.state_dict().items() if "lora_" in n}
        loaded = base(torch.float32)
        loradrop.load_loralib(loaded, state, alpha=10)
        assert {p.dtype for p in loras(loaded)} == {dtype}
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_identical_adapters_give_identical_files(batch, tmp_path):
    for compact in (False, True):
        contents = []
        for i in range(8):
            folder = tmp_path / f"{compact}{i}"
            loradrop.save_pretrained(
                adapted("own", torch.float32, torch.float32, batch), folder, compact=compact
            )
            contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert all(content == contents[0] for content in contents)
