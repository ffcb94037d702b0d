"""One accumulator against the definition, and the helpers around the hooks."""

from __future__ import annotations

from collections import UserDict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from loradrop.importance.moments import (
    EXAMPLES,
    TOKENS,
    Moment,
    MomentAccumulator,
    evaluating,
    hooked,
    sum_over_processes,
    tensors_in,
    to_device,
)
from loradrop.lora.layer import LoRALinear


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


class Masks:
    """Stands in for TokenMask: one mask for every input."""

    lineage = SimpleNamespace(paused=nullcontext)

    def __init__(self, mask: torch.Tensor, constant: bool = False) -> None:
        self.mask, self.constant = mask, constant

    def of(self, site, x):
        return x, self.mask, self.constant


def accumulator(mask, average_over=TOKENS, keep_norms=False, constant=False):
    torch.manual_seed(0)
    lora = LoRALinear(nn.Linear(8, 6), rank=3, alpha=2)
    nn.init.normal_(lora.lora_B)
    return MomentAccumulator(None, lora, Masks(mask, constant), average_over, keep_norms)


def norms_of(meter, x):
    lora = meter.lora
    return ((2 / 3 * (x @ lora.lora_A.T @ lora.lora_B.T)) ** 2).sum(-1)


MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0]])  # one token, three, and none


def test_tokens_count_alike_or_examples_do():
    x = torch.randn(3, 3, 8)
    for average_over, mean in [
        (TOKENS, lambda norms: (norms[0, 0] + norms[1].sum()) / 4),
        (EXAMPLES, lambda norms: (norms[0, 0] + norms[1].mean()) / 2),
    ]:
        meter = accumulator(MASK, average_over, keep_norms=True)
        with hooked([meter]):
            meter.lora(x)
        expected = norms_of(meter, x)
        assert meter.mean_squared_norm() == pytest.approx(float(mean(expected)), rel=1e-5)
        assert meter.called and int(meter.moment.tokens) == 4
        torch.testing.assert_close(meter.moment.norms[0], expected[MASK > 0])
        meter.lora(x)  # no hook is left
        assert int(meter.moment.tokens) == 4


def test_batches_add_up_and_norms_are_kept_on_request_alone():
    meter, batches = accumulator(MASK), torch.randn(2, 3, 3, 8)
    assert meter.called is False and int(meter.moment.tokens) == 0
    for x in batches:
        meter(meter.lora, (x,), {})
    expected = torch.stack([norms_of(meter, x)[MASK > 0] for x in batches])
    assert meter.mean_squared_norm() == pytest.approx(float(expected.mean()), rel=1e-5)
    assert int(meter.moment.tokens) == 8 and not meter.moment.norms


def test_sums_are_as_exact_as_they_must_be_and_where_the_lora_is():
    for device in ("cpu", "meta"):
        lora = LoRALinear(nn.Linear(8, 6, device=device), rank=3, alpha=2)
        moment = MomentAccumulator(None, lora, Masks(MASK), TOKENS, False).of_batch
        kinds = [torch.float64, torch.float64, torch.int64]
        parts = [moment.sum, moment.weight, moment.tokens]
        assert [part.dtype for part in parts] == kinds
        assert {part.device.type for part in parts} == {device}


@pytest.mark.parametrize("several", [False, True])
def test_processes_add_up_what_each_has_seen(several, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: several)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.mul_(3))
    meters = [accumulator(MASK), accumulator(MASK, constant=True)]
    for meter in meters:
        meter(meter.lora, (torch.randn(3, 3, 8),), {})
    alone = [meter.moment.sum.clone() for meter in meters]
    sum_over_processes(meters)
    for meter, sums in zip(meters, alone, strict=True):
        assert torch.equal(meter.moment.sum, sums * (3 if several else 1))
        assert float(meter.moment.weight) == int(meter.moment.tokens) == (12 if several else 4)


def test_an_input_by_name_is_an_input():
    meter, x = accumulator(MASK), torch.randn(3, 3, 8)
    with hooked([meter]):
        meter.lora(x=x)
    assert meter.mean_squared_norm() == pytest.approx(
        float(norms_of(meter, x)[MASK > 0].mean()), rel=1e-5
    )


def test_autocast_does_not_round_the_sums():
    x = torch.randn(3, 3, 8)
    sums = []
    for enabled in (False, True):
        meter = accumulator(MASK)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            meter(meter.lora, (x,), {})
        sums.append(meter.moment.sum)
    assert torch.equal(*sums) and sums[0].dtype == torch.float64


def test_what_is_the_same_for_all_batches_counts_only_where_nothing_else_does():
    one, x = torch.ones(1, 1), torch.randn(1, 1, 8)
    meter = accumulator(one, constant=True)
    meter(meter.lora, (x,), {})
    assert meter.moment is meter.constant and int(meter.moment.tokens) == 1
    meter.masks.constant = False
    meter(meter.lora, (x,), {})
    assert meter.moment is meter.of_batch and int(meter.moment.tokens) == 1


def test_a_module_of_4_bits_stays_in_training_mode():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].support_avx512bf16_for_cpu = True
    with evaluating(model):
        assert model[0].training and not model[1].training
    assert model[0].training and model[1].training and model.training
    model.eval()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert not any(module.training for module in model.modules())


def test_tensors_are_found_and_moved_in_what_batches_are_made_of():
    x = torch.ones(2)
    batch = {"a": x, "b": [x, (x, "text")], "c": None}
    assert len(list(tensors_in(batch))) == 3
    moved = to_device(UserDict(batch), torch.device("meta"))
    assert moved["a"].is_meta and moved["b"][0].is_meta and moved["b"][1][0].is_meta
    assert moved["b"][1][1] == "text" and moved["c"] is None
    assert to_device({"a": x}, torch.device("meta"))["a"].is_meta


def test_a_device_without_float64_leaves_its_sums_to_the_cpu():
    moment = Moment(3, torch.device("mps"))
    assert {part.device.type for part in (moment.sum, moment.weight, moment.tokens)} == {"cpu"}
    assert moment.sum.dtype == moment.weight.dtype == torch.float64
