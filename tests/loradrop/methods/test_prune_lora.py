"""Prune-LoRA: AdaLoRA's schedule by PEFT, its choice of doublets by loops, and its budget."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from helpers.other_methods import STEPS, Run, adamw, goes_on_bit_for_bit, train
from peft import AdaLoraConfig
from peft.tuners.adalora.layer import RankAllocator

from loradrop.backbones import freeze_encoder
from loradrop.lora.inject import lora_modules
from loradrop.methods.budgets import CubicBudget
from loradrop.methods.prune_lora import PruneLoRA

SETTINGS = {
    "init_rank": 3,
    "target_rank": 2,
    "alpha": 16,
    "dropout": 0.0,
    "target_modules": "all-linear",
    "warmup_ratio": 0.1,
    "final_ratio": 0.3,
    "interval": 2,
    "beta1": 0.85,
    "beta2": 0.8,
}


def fresh(**changes):
    method, model = PruneLoRA("prune_lora", **(SETTINGS | changes)), freeze_encoder(tiny_model())
    torch.manual_seed(1)
    method.install(model)
    return method, model


def installed(**changes):
    method, model = fresh(**changes)
    method.prepare(model, Run())
    return method, model


@pytest.mark.parametrize(("steps", "warmup", "final"), [(14, 1, 4), (100, 20, 30), (57, 0, 10)])
def test_the_budget_is_adaloras_by_peft(steps, warmup, final):
    allocator = object.__new__(RankAllocator)
    allocator.peft_config = AdaLoraConfig(
        total_step=steps, tinit=warmup, tfinal=final, deltaT=3, target_r=2
    )
    allocator.init_bgt, allocator.target_bgt = 54, 36
    ours = CubicBudget(54, 36, warmup, steps - final, 3)
    for step in range(1, steps - final):
        assert (ours.at(step), ours.cuts(step)) == allocator.budget_schedule(step)
    assert (ours.at(steps - final), ours.cuts(steps - final)) == (36, True)


def test_the_doublets_that_are_kept_score_highest(batch):
    """Scores by the equations, entry by entry, over the steps until the first cut."""
    method, model = installed()
    modules = lora_modules(model)
    optimizer = adamw(model)
    averages = {}
    for number in (1, 2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        for name, module in modules.items():
            for matrix in ("lora_A", "lora_B"):
                weight = getattr(module, matrix)
                now = (weight * weight.grad).abs().detach()
                smooth, doubt = averages.get((name, matrix), (0 * now, 0 * now))
                smooth = 0.85 * smooth + 0.15 * now
                averages[name, matrix] = smooth, 0.8 * doubt + 0.2 * (now - smooth).abs()
        method.on_step_end(model, number)
    scores = {}
    for name, module in modules.items():
        for i in range(module.rank):
            row, column = (
                [float(s * u) for s, u in zip(smooth, doubt, strict=True)]
                for smooth, doubt in (
                    [part[i] for part in averages[name, "lora_A"]],
                    [part[:, i] for part in averages[name, "lora_B"]],
                )
            )
            scores[name, i] = sum(row) / len(row) + sum(column) / len(column)
    budget = CubicBudget(54, 36, 1, 10, 2).at(2)
    assert 36 < budget < 54
    expected = set(sorted(scores, key=lambda key: -scores[key])[:budget])
    for name, module in modules.items():
        for i in range(module.rank):
            alive = bool(module.lora_A[i].any()) and bool(module.lora_B[:, i].any())
            zero = not module.lora_A[i].any() and not module.lora_B[:, i].any()
            assert (alive, zero) == ((name, i) in expected, (name, i) not in expected)


def test_it_meets_the_budget_exactly_and_reports_it(batch):
    method, model = installed()
    assert method.result_fields() == {}
    train(method, model, batch)
    assert [step for step in range(1, STEPS + 1) if method.is_final(step)] == [10, 11, 12, 13, 14]
    modules = lora_modules(model).values()
    ranks = [int((module.lora_B != 0).any(0).sum()) for module in modules]
    assert len(ranks) == 18 and sum(ranks) == 36 and len(set(ranks)) > 1
    report = method.result_fields()
    assert report["inactive"] == sum(
        int((parameter == 0).sum())
        for module in modules
        for parameter in (module.lora_A, module.lora_B)
    )
    assert "budget of 36 doublets holds from step 10 on" in report["notes"][0]


@pytest.mark.parametrize("at", [1, 4, 9, 10, 12])
def test_it_goes_on_from_its_state_bit_for_bit(at, batch, tmp_path):
    goes_on_bit_for_bit(fresh, batch, at, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_rank": 3}, r"target_rank must be at least 1 and below init_rank \(3\), got 3"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"final_ratio": 1.0}, r"final_ratio must lie in \[0, 1\), got 1"),
        ({"beta1": 1.0}, r"beta1 must lie in \(0, 1\), got 1"),
        ({"warmup_ratio": 0.7}, r"14 steps: 10 of warm-up .* and 4 at the end"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        installed(**changes)
