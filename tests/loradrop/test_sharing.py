"""Sharing by the same Parameter objects."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model, train_b

from loradrop.importance.measurement import measure
from loradrop.lora.inject import add_lora, lora_modules, lora_sites
from loradrop.plan import SharingPlan
from loradrop.selection import select
from loradrop.sharing import plan_of, share


def adapted(family="roberta"):
    model = tiny_model(family)
    add_lora(model, rank=4)
    train_b(model)
    return model


def count(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def plan_for(model, kept, do_share=True):
    sites = list(lora_sites(model))
    kinds = dict.fromkeys(site.module_type for site in sites)
    own = dict.fromkeys(kinds, kept)
    others = {kind: tuple(i for i in range(3) if i not in kept) for kind in kinds}
    return SharingPlan(own, others, do_share, 1, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_layers_hold_the_same_tensor_and_the_plan_counts_right(family, batch):
    model = adapted(family)
    plan = select(measure(model, [batch]), threshold=0.01)
    before = count(model)
    share(model, plan)
    for kind, layers in plan.others.items():
        modules = {
            site.layer: module
            for site, module in lora_sites(model).items()
            if site.module_type == kind
        }
        assert (
            len({id(modules[i].lora_A) for i in layers})
            == len({id(modules[i].lora_B) for i in layers})
            == 1
        )
        assert modules[plan.kept[kind][0]].lora_A is not modules[layers[0]].lora_A
    assert (before, count(model)) == (plan.lora_parameters, plan.parameters) and plan.saved > 0


def test_the_gradient_of_a_shared_lora_is_the_sum_over_its_layers(batch):
    shared, separate = adapted(), adapted()
    share(shared, plan_for(shared, kept=(1,)))
    for name, module in lora_modules(separate).items():  # the same values, in tensors of their own
        module.lora_A.data.copy_(shared.get_submodule(name).lora_A.data)
        module.lora_B.data.copy_(shared.get_submodule(name).lora_B.data)
    for model in (shared, separate):
        model(**batch).loss.backward()
    modules = lora_modules(separate)
    names = [name for name in modules if name.endswith("query") and ".1." not in name]
    expected = sum(modules[name].lora_A.grad for name in names)
    torch.testing.assert_close(shared.get_submodule(names[0]).lora_A.grad, expected)


def test_an_optimiser_sees_one_lora_and_a_step_moves_all_its_layers(batch):
    model = adapted()
    share(model, plan_for(model, kept=()))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert len(optimiser.param_groups[0]["params"]) == 4  # A and B of query and of value
    model(**batch).loss.backward()
    optimiser.step()
    queries = [module for name, module in lora_modules(model).items() if name.endswith("query")]
    assert all(torch.equal(module.lora_A, queries[0].lora_A) for module in queries)


def test_initial_values():
    first, mean = adapted(), adapted()
    plan = plan_for(first, kept=(0,))
    values = [
        module.lora_B.detach().clone()
        for site, module in lora_sites(first).items()
        if site.module_type == "query"
    ]
    share(first, plan)
    share(mean, plan, shared_init="mean")
    query = next(
        site.name for site in lora_sites(first) if site.module_type == "query" and site.layer == 2
    )
    assert torch.equal(first.get_submodule(query).lora_B, values[1])
    torch.testing.assert_close(mean.get_submodule(query).lora_B, (values[1] + values[2]) / 2)


def test_without_sharing_the_other_layers_get_none(batch):
    model = adapted()
    share(model, plan_for(model, kept=(2,), do_share=False))
    assert {site.layer for site in lora_sites(model)} == {2} and len(lora_sites(model)) == 2
    model(**batch).loss.backward()


def test_a_plan_for_another_model_is_refused():
    model = adapted()
    plan = SharingPlan({"query": (0,)}, {"query": (1, 2, 3)}, True, 1, 1)
    with pytest.raises(
        ValueError,
        match="does not fit the model: only in the plan: query 3; only in the model: value 0",
    ):
        share(model, plan)
    with pytest.raises(ValueError, match="shared_init must be one of first, mean"):
        share(model, plan_for(model, (0,)), shared_init="last")


def test_layers_that_share_are_not_parted_by_another_plan():
    model = adapted()
    share(model, plan_for(model, kept=(1,)))
    with pytest.raises(
        ValueError, match="query 0, query 2 share a LoRA already, and the plan would separate"
    ):
        share(model, plan_for(model, kept=(0,)))
    assert plan_of(model).kept["query"] == (1,)
    with pytest.raises(ValueError, match="share a LoRA already, and the plan would separate"):
        share(model, plan_for(model, kept=(0, 1, 2), do_share=False))
    share(model, plan_for(model, kept=()))  # one that lets more of them share
    assert plan_of(model).others["query"] == (0, 1, 2)


def test_a_mean_that_is_carried_out_again_changes_nothing():
    model = adapted()
    plan = plan_for(model, kept=())
    share(model, plan, shared_init="mean")
    value = next(iter(lora_modules(model).values())).lora_B
    with torch.no_grad():
        value.copy_(torch.linspace(-1, 1, value.numel()).view_as(value))
    before = value.clone()
    share(model, plan, shared_init="mean")
    assert torch.equal(value, before)


def test_both_matrices_of_a_shared_lora_start_as_the_mean():
    model = adapted()
    loras = [m for site, m in lora_sites(model).items() if site.module_type == "query"]
    means = [
        torch.stack([getattr(m, k).detach() for m in loras]).mean(0) for k in ("lora_A", "lora_B")
    ]
    share(model, plan_for(model, kept=()), "mean")
    shared = next(iter(lora_sites(model).values()))
    torch.testing.assert_close(shared.lora_A.detach(), means[0])
    torch.testing.assert_close(shared.lora_B.detach(), means[1])


def test_two_loras_of_different_shapes_are_not_shared():
    model = adapted()
    first, second, _ = (m for site, m in lora_sites(model).items() if site.module_type == "value")
    second.lora_A = torch.nn.Parameter(first.lora_A[:2].detach().clone())
    with pytest.raises(ValueError, match="value: LoRAs of different shapes cannot be shared"):
        share(model, plan_for(model, kept=(2,)))
