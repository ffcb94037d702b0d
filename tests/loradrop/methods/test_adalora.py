"""AdaLoRA: the budget is met exactly, training is PEFT's, and an interruption changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_model
from helpers.other_methods import STEPS, Run, goes_on_bit_for_bit, installed, make, train

from loradrop.heads import freeze_encoder, head_parameters
from loradrop.methods.adalora import ADAPTER, SCORES


def test_adalora_meets_the_budget_exactly_and_reports_it(batch):
    method, model = installed("adalora", "roberta")
    assert method.result_fields() == {}
    train(method, model, batch)
    modules = [module for module in model.modules() if hasattr(module, "lora_E")]
    ranks = [int((module.lora_E[ADAPTER] != 0).sum()) for module in modules]
    assert len(modules) == 3 * 6 and sum(ranks) == 2 * 18 and len(set(ranks)) > 1
    report = method.result_fields()
    assert report["inactive"] == sum(
        (3 - rank) * (m.in_features + m.out_features + 1)
        for rank, m in zip(ranks, modules, strict=True)
    )
    assert "budget of 36 triplets holds from step 10 of 14" in report["notes"][0]
    assert f"query {ranks[0]} {ranks[6]} {ranks[12]};" in report["notes"][1]


def test_adaloras_training_is_pefts(batch):
    """PEFT's own wrapper, penalty and loop, from the same weights: the same ranks and weights."""
    from peft import AdaLoraConfig, get_peft_model

    method, model = installed("adalora", "bert")
    rank = {
        "init_r": 3,
        "target_r": 2,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "orth_reg_weight": 0.1,
    }
    schedule = {"total_step": STEPS, "tinit": 1, "tfinal": 4, "deltaT": 2}
    targets = [
        "query",
        "key",
        "value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]
    theirs = get_peft_model(
        freeze_encoder(tiny_model("bert")),
        AdaLoraConfig(**rank, **schedule, target_modules=targets),
    ).eval()
    # PeftModel.forward goes past the penalty where no task type is given
    theirs = theirs.base_model
    inner = theirs.model
    for _, parameter in head_parameters(inner):
        parameter.requires_grad_(True)
    inner.load_state_dict(model.state_dict())
    torch.testing.assert_close(method.penalty(model), theirs(**batch).loss - model(**batch).loss)
    train(method, model, batch)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        theirs(**batch).loss.backward()
        optimizer.step()
        theirs.update_and_allocate(step)
    assert method.state_dict()["rank_pattern"] == theirs.peft_config[ADAPTER].rank_pattern
    for name, value in inner.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-4)


def test_adalora_is_final_from_the_first_step_of_the_target_budget(batch):
    """Of 14 steps the last 4 have it: after step 10 no entry of l is cut or restored."""
    method, model = installed("adalora", "roberta")
    assert [step for step in range(1, STEPS + 1) if method.is_final(step)] == [10, 11, 12, 13, 14]
    train(method, model, batch, steps=10)
    pattern = method.state_dict()["rank_pattern"]
    assert sum(map(sum, pattern.values())) == 36  # the budget is met when it is said to be final


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 5, 9, 10, 12])
def test_adalora_goes_on_from_its_state_bit_for_bit(at, batch, tmp_path):
    def fresh():
        model, method = freeze_encoder(tiny_model()), make("adalora")
        torch.manual_seed(1)
        method.install(model)
        return method, model

    state = goes_on_bit_for_bit(fresh, batch, at, tmp_path / "checkpoint")
    json.dumps({key: value for key, value in state.items() if key not in SCORES})


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        (
            STEPS,
            {"warmup_ratio": 0.7},
            r"14 steps: 10 of warm-up \(warmup_ratio\) and 4 at the end .* leave 0",
        ),
        (STEPS, {"interval": 10}, r"leave 9 to cut the budget in, every 10 \(interval\)"),
        (2, {"interval": 1}, "leave 1 to cut"),
    ],
)
def test_a_schedule_of_adalora_that_does_not_fit_the_run_is_refused(steps, changes, message):
    model, method = freeze_encoder(tiny_model()), make("adalora", **changes)
    method.install(model)
    with pytest.raises(ValueError, match=message):
        method.prepare(model, Run(steps))
