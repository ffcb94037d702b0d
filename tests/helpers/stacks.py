"""Models of several stacks, and the explicit norm of every LoRA's output."""

from __future__ import annotations

import pytest
import torch
from conftest import train_b
from transformers import (
    CLIPConfig,
    CLIPModel,
)

import loradrop
from loradrop.lora.inject import lora_sites

LENGTHS = torch.tensor([5, 3, 2])


def text(width=5):
    """ids and mask of three texts of 5, 3 and 2 tokens."""
    mask = (torch.arange(width) < LENGTHS[:, None]).long()
    ids = torch.randint(3, 60, (3, width), generator=torch.Generator().manual_seed(0))
    return ids * mask + (1 - mask), mask


def pixels():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def adapted(model, targets=("q_proj", "v_proj")):
    model = model.eval()
    loradrop.add_lora(model, rank=4, target_modules=targets)
    train_b(model)
    return model


@torch.no_grad()
def explicit(model, given, mask_of):
    """Mean || s B A x ||^2 of each LoRA in float64 over what `mask_of(name, x)` counts; None for
    all.
    """
    model = model.double()
    given = {k: v.double() if v.is_floating_point() else v for k, v in given.items()}
    sums = {}

    def hook(site, module, x):
        norms = (module.scaling * x @ module.lora_A.T @ module.lora_B.T).pow(2).sum(-1)
        mask = mask_of(site.name, x)
        mask = torch.ones_like(norms) if mask is None else mask.reshape(norms.shape).double()
        total, count = sums.get(site, (0.0, 0.0))
        sums[site] = total + float((norms * mask).sum()), count + float(mask.sum())

    handles = [
        module.register_forward_pre_hook(lambda m, args, site=site: hook(site, m, args[0]))
        for site, module in lora_sites(model).items()
    ]
    model(**given)
    for handle in handles:
        handle.remove()
    model.float()
    return {site: total / count for site, (total, count) in sums.items()}


def agree(importance, expected, rel=1e-4):
    assert expected
    got = {
        (kind, layer): g
        for kind, layers in importance.values.items()
        for layer, g in layers.items()
    }
    assert got == pytest.approx({(s.module_type, s.layer): g for s, g in expected.items()}, rel=rel)


SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
VISION = {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 3}
WORDS = {**SIZES, "vocab_size": 60, "max_position_embeddings": 40}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def clip():
    torch.manual_seed(0)
    return CLIPModel(
        CLIPConfig(text_config={**WORDS, **IDS}, vision_config=VISION, projection_dim=16)
    )
