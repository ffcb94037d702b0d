"""Pyramids: stages of different widths, whose layers are numbered through and grouped by module
type and shape.
"""

from __future__ import annotations

import pytest
import torch
from conftest import train_b
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    PvtConfig,
    PvtModel,
    SegformerConfig,
    SegformerModel,
    SwinConfig,
    SwinModel,
)

import loradrop
from loradrop.lora.inject import lora_modules
from loradrop.lora.sites import find_sites

STAGES = {
    "depths": [1, 3, 3],
    "num_attention_heads": [1, 2, 2],
    "hidden_sizes": [8, 16, 16],
    "num_encoder_blocks": 3,
}
STAGES |= {"sr_ratios": [2, 1, 1], "mlp_ratios": [2, 2, 2], "strides": [4, 2, 2]}
PYRAMIDS = {
    "swin": (
        SwinModel,
        SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[1, 3, 3],
            num_heads=[1, 2, 4],
            window_size=4,
        ),
    ),
    "segformer": (SegformerModel, SegformerConfig(**STAGES, patch_sizes=[7, 3, 3])),
    "pvt": (
        PvtModel,
        PvtConfig(
            **STAGES, image_size=32, patch_sizes=[4, 2, 2], sequence_reduction_ratios=[2, 1, 1]
        ),
    ),
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name):
    cls, config = PYRAMIDS[name]
    torch.manual_seed(0)
    return cls(config).eval()


def blocks(model):
    """Query modules in the order in which they stand: depths 1, 3 and 3."""
    return [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and n.endswith(("q_proj", "query"))
    ]


@torch.no_grad()
def norms(model):
    """Mean || s B A x ||^2 by module name in float64, by hooks of our own."""
    sums, handles = {}, []
    for name, module in lora_modules(model).items():

        def hook(m, args, name=name):
            y = m.scaling * args[0] @ m.lora_A.T @ m.lora_B.T
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + float(y.pow(2).sum()), count + y[..., 0].numel()

        handles.append(module.register_forward_pre_hook(hook))
    model.double()(IMAGES.double())
    for handle in handles:
        handle.remove()
    model.float()
    return {name: total / count for name, (total, count) in sums.items()}


@pytest.mark.parametrize("library", ["own", "PEFT"])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_layers_are_numbered_through_all_stages(name, library, tmp_path):
    model = make(name)
    queries = blocks(model)
    assert len(queries) == 7
    widths = [m.in_features for _, m in queries]
    suffixes = [
        queries[0][0].rpartition(".")[2],
        {"q_proj": "v_proj", "query": "value"}[queries[0][0].rpartition(".")[2]],
    ]
    loradrop.add_lora(model, rank=4)
    train_b(model)
    expected = norms(model)
    if library == "PEFT":
        theirs = get_peft_model(
            make(name), LoraConfig(r=4, lora_alpha=16, target_modules=suffixes)
        ).eval()
        for path, module in lora_modules(model).items():
            layer = theirs.base_model.model.get_submodule(path)
            layer.lora_A["default"].weight.data.copy_(module.lora_A.data)
            layer.lora_B["default"].weight.data.copy_(module.lora_B.data)
        model = theirs
    importance = loradrop.measure(model, [{"pixel_values": IMAGES}])
    for kind in suffixes:
        for width in set(widths):
            layers = [i for i, w in enumerate(widths) if w == width]
            got = importance.values[f"{kind}[{width}x{width}]"]
            wanted = [expected[queries[i][0].replace(suffixes[0], kind)] for i in layers]
            assert list(got) == layers and list(got.values()) == pytest.approx(wanted, rel=1e-4)
    plan = loradrop.select(importance, num_layers=1)
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan and plan.saved > 0
    output = model(IMAGES)[0]
    loradrop.save_pretrained(model, tmp_path)
    loaded = loradrop.from_pretrained(make(name), tmp_path).eval()
    assert loradrop.plan_of(loaded) == plan and torch.equal(loaded(IMAGES)[0], output)


def test_types_do_not_depend_on_what_is_left():
    """Without sharing LoRA goes from whole stages; the rest keep their names."""
    model = make("swin")
    loradrop.add_lora(model, rank=4)
    train_b(model)
    before = {path: site for site, path in ((s, s.name) for s in find_sites(make("swin")))}
    loradrop.share(
        model,
        loradrop.select(
            loradrop.measure(model, [{"pixel_values": IMAGES}]), num_layers=1, share=False
        ),
    )
    from loradrop.lora.inject import lora_sites

    assert len(lora_sites(model)) == 6  # three widths of two module types
    assert all(before[site.name] == site for site in lora_sites(model))


class Block(nn.Module):
    def __init__(self, width, experts=0):
        super().__init__()
        self.q = nn.Linear(width, width)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))

    def forward(self, x):
        x = self.q(x)
        for expert in self.experts:
            x = x + expert(x)
        return x


def stack(widths):
    model = nn.Module()
    model.layers = nn.ModuleList(Block(width) for width in widths)
    return model


def keys(model, targets):
    return [(site.module_type, site.layer) for site in find_sites(model, targets)]


def test_one_stack_of_two_widths():
    assert keys(stack([8, 8, 8]), ["q"]) == [("q", 0), ("q", 1), ("q", 2)]
    assert keys(stack([8, 16, 8]), ["q"]) == [("q[8x8]", 0), ("q[16x16]", 1), ("q[8x8]", 2)]


def test_experts_are_no_stages():
    model = nn.Module()
    model.layers = nn.ModuleList(Block(8, 2) for _ in range(2))
    assert keys(model, ["experts.*"]) == [("0", 0), ("1", 0), ("0", 1), ("1", 1)]
