"""LoRALinear by itself: its first values, what it accepts, and what it passes on of its base."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from loradrop.lora.layer import LoRALinear, fresh_matrices


def test_a_is_uniform_up_to_one_over_the_root_of_its_width():
    torch.manual_seed(0)
    A, B = fresh_matrices(nn.Linear(100, 80), rank=64)
    bound = 1 / math.sqrt(100)  # of kaiming_uniform_ with a = sqrt(5)
    assert A.shape == (64, 100) and B.shape == (80, 64) and not B.any()
    assert 0.99 * bound < A.abs().max() <= bound
    assert float(A.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 4), (4, 8)])
def test_a_rank_may_be_all_that_the_narrower_side_allows(shape):
    for rank in (1, 4):
        assert LoRALinear(nn.Linear(*shape), rank, alpha=1).lora_A.shape == (rank, shape[0])
    for rank in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4 for a .* module, got {rank}"):
            LoRALinear(nn.Linear(*shape), rank, alpha=1)


def test_alpha_may_be_small_and_no_dropout_is_no_mistake():
    module = LoRALinear(nn.Linear(4, 6), rank=2, alpha=0.5, dropout=0.0)
    assert module.scaling == 0.25 and module.size == 2 * (4 + 6)
    assert "rank=2, alpha=0.5" in repr(module)
    for given in ({"alpha": 0}, {"alpha": -1}, {"dropout": -0.1}, {"dropout": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} must"):
            LoRALinear(nn.Linear(4, 6), **({"rank": 2, "alpha": 1} | given))


def test_the_update_is_added_to_the_frozen_module():
    torch.manual_seed(0)
    module = LoRALinear(nn.Linear(4, 6), rank=2, alpha=3, dropout=0.5).eval()
    nn.init.normal_(module.lora_B)
    base, A, B = module.base, module.lora_A, module.lora_B
    x = torch.randn(5, 7, 4)
    expected = x @ base.weight.T + base.bias + 3 / 2 * x @ A.T @ B.T
    torch.testing.assert_close(module(x), expected)
    assert not torch.equal(module.train()(x), module(x))  # dropout
    assert (module.in_features, module.out_features) == (4, 6)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        "lora_A",
        "lora_B",
    }
    assert module._tied_weights_keys is None


def test_given_matrices_are_used_as_they_are():
    A, B = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(6, 2))
    module = LoRALinear(nn.Linear(4, 6), rank=2, alpha=1, matrices=(A, B))
    assert module.lora_A is A and module.lora_B is B


def test_matrices_are_where_the_base_is_whatever_holds_its_weight():
    class Packed(nn.Module):  # as GPTQ's and AWQ's linear modules
        in_features, out_features = 4, 6

        def __init__(self):
            super().__init__()
            self.register_buffer("qweight", torch.empty(6, 4, device="meta"))

    for base in (nn.Linear(4, 6, device="meta"), Packed()):
        module = LoRALinear(base, rank=2, alpha=1)
        assert module.lora_A.device.type == module.lora_B.device.type == "meta"


def test_what_the_base_has_is_passed_on_but_no_private_notes():
    base = nn.Linear(4, 6)
    base.note, base._note = "public", "private"
    module = LoRALinear(base, rank=2, alpha=1)
    assert module.note == "public" and module.weight is base.weight and module.bias is base.bias
    for name in ("_note", "nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(module, name)
