"""LoRALinear stands in for its linear module; where a model computes with the weight alone, LoRA is
refused.
"""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from conftest import train_b
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel, WavLMConfig, WavLMModel

import loradrop
from loradrop.lora.inject import lora_modules


class Layer(nn.Module):
    """A layer whose `a` is called, and whose `b` is used in one of several ways."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)


class Called(Layer):
    def forward(self, x):
        return self.b(self.a(x))


class ReadsTypes(Layer):
    def forward(self, x):
        x = self.a(x).to(self.b.weight.dtype).to(self.b.weight.device)
        if isinstance(self.b.weight, torch.Tensor) and self.b.bias is not None:
            x = x.reshape(-1, self.b.in_features).reshape(x.shape) + 0 * self.b.weight.shape[0]
        return self.b(x)


class Functional(Layer):
    def forward(self, x):
        return F.linear(self.a(x), self.b.weight, self.b.bias)


class InAMethod(Layer):
    def forward(self, x):
        return self.project(self.a(x))

    def project(self, x):
        return x @ self.b.weight.T + self.b.bias


class OtherName(Layer):
    def forward(self, x):
        x, module = self.a(x), self.b
        return F.linear(x, module.weight, module.bias)


class ByString(Layer):
    def forward(self, x):
        return F.linear(self.a(x), getattr(getattr(self, "b"), "weight"), self.b.bias)  # noqa: B009


class FusedInEval(Layer):
    def forward(self, x):
        module = self.b
        hooks = module._forward_pre_hooks
        if self.training or hooks:
            return module(self.a(x))
        return F.linear(self.a(x), module.weight, module.bias)


class OnlyAtTheStart(Layer):
    """Reads the weight where it is made, not in its forward."""

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        nn.init.normal_(self.b.weight, std=0.2)

    def forward(self, x):
        return self.b(self.a(x))


LAYERS = [
    Called,
    ReadsTypes,
    Functional,
    InAMethod,
    OtherName,
    ByString,
    FusedInEval,
    OnlyAtTheStart,
]


class Toy(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        kind = random.Random(seed).choice(LAYERS)
        self.layers = nn.ModuleList(kind() for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


@torch.no_grad()
def works(seed):
    """Whether LoRA at each layer's b changes the output in eval mode: put in by hand, nobody
    watches.
    """
    x, effects = torch.randn(2, 5, 8), []
    for i in range(3):
        model = Toy(seed).eval()
        before = model(x)
        module = loradrop.LoRALinear(model.layers[i].b, 2, 4)
        module.lora_B.fill_(0.5)
        model.layers[i].b = module
        effects.append(not torch.equal(model(x), before))
    assert len(set(effects)) == 1
    return effects[0]


@pytest.mark.parametrize("seed", range(40))
def test_what_has_no_effect_is_refused(seed):
    model = Toy(seed).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]

    def measured():
        loradrop.add_lora(model, rank=2, target_modules=["b"])
        train_b(model)
        return loradrop.measure(model, [torch.randn(2, 5, 8)])

    if works(seed):
        assert set(measured().values) == {"b"}
        return
    with pytest.raises(ValueError, match=r"layers\.\d\.b") as error:
        measured()
    assert "\n" not in str(error.value)
    if not lora_modules(model):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
        assert [p.requires_grad for p in model.parameters()] == flags
    # the other module is called whatever becomes of this one
    other = Toy(seed).eval()
    loradrop.add_lora(other, rank=2, target_modules=["a"])
    train_b(other)
    assert len(loradrop.measure(other, [torch.randn(2, 5, 8)]).values["a"]) == 3


def test_all_kinds_of_toys_come_up():
    assert {type(Toy(seed).layers[0]) for seed in range(40)} == set(LAYERS)


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize("target", ["out_proj", "linear1", "linear2"])
def test_torch_transformers_compute_with_weights(target):
    with pytest.raises(
        ValueError,
        match=rf"layers\.0\..*{target}: TransformerEncoder\w* computes with|MultiheadAttention",
    ):
        loradrop.add_lora(encoder(), rank=2, target_modules=[target])
    theirs = get_peft_model(
        encoder(), LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
    ).eval()
    with pytest.raises(ValueError, match=rf"layers\.0\..*{target}: \w+ computes with"):
        loradrop.measure(theirs, [torch.randn(2, 5, 16)])


def test_wavlm_attends_with_weights():
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    sizes |= {"conv_dim": [8], "conv_stride": [2], "conv_kernel": [3], "num_feat_extract_layers": 1}
    model = WavLMModel(
        WavLMConfig(**sizes, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    ).eval()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(
        ValueError,
        match=r"layers\.0\.attention\.[qv]_proj: WavLMAttention computes with its weight",
    ):
        loradrop.add_lora(model, rank=2, target_modules=["q_proj", "v_proj"])
    assert {name: type(module) for name, module in model.named_modules()} == before
    loradrop.add_lora(model, rank=2, target_modules=["intermediate_dense"])


def test_a_type_that_is_read_is_no_bypass():
    sizes = {
        "vocab_size": 60,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
    }
    model = T5EncoderModel(T5Config(**sizes)).eval()  # T5's feed-forward reads wo.weight.dtype
    loradrop.add_lora(model, rank=2, target_modules=["wo"])
    train_b(model)
    assert loradrop.measure(model, [{"input_ids": torch.randint(3, 60, (2, 5))}]).tokens == 10


@pytest.mark.parametrize("bias", [True, False])
def test_it_stands_in_for_its_linear_module(bias):
    base = nn.Linear(6, 4, bias=bias, dtype=torch.bfloat16)
    base.name_of_its_own = "x"
    module = loradrop.LoRALinear(base, 2, 4)
    assert module.weight is base.weight and module.bias is base.bias
    assert (module.in_features, module.out_features, module.name_of_its_own) == (6, 4, "x")
    with pytest.raises(AttributeError, match="'LoRALinear' object has no attribute 'nothing'"):
        _ = module.nothing
    assert not hasattr(module, "_hidden")
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin.weight, base.weight) and twin.weight is not base.weight
        assert [name for name, _ in twin.named_parameters()] == [
            name for name, _ in module.named_parameters()
        ]
    compiled = torch.compile(
        lambda x: module(x) * module.weight.shape[0] + (0 if module.bias is None else 1),
        backend="eager",
    )
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    assert torch.equal(compiled(x), module(x) * 4 + int(bias))
