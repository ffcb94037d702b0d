"""PRILoRA's ranks, and its pruning against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.methods import installed, prilora, randomise

from loradrop.lora.inject import lora_modules, lora_sites
from loradrop.methods.prilora import concentrated_ranks, keep_largest, linear_ranks


def test_the_papers_ranks():
    assert linear_ranks(4, 12, 12) == [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]
    assert (
        linear_ranks(12, 4, 12)[0] == 12
        and linear_ranks(12, 4, 12)[-1] == 4
        and linear_ranks(8, 8, 12) == [8] * 12
    )
    model = installed(prilora())
    assert {site.layer: module.rank for site, module in lora_sites(model).items()} == {
        0: 2,
        1: 4,
        2: 6,
    }
    assert len(lora_sites(model)) == 18


def step(method, model, batch, number):
    torch.manual_seed(number)
    model.train()
    model(**batch).loss.backward()
    method.on_step_end(model, number)


@pytest.mark.parametrize("matrix", ["A", "B"])
@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_prilora_prunes_by_weight_times_the_inputs_moving_norm(batch, matrix, scope):
    method = prilora(matrix=matrix, scope=scope)
    model = installed(method)
    randomise(model, "lora_A", "lora_B")
    name, module = list(lora_modules(model).items())[7]
    inputs = []
    module.register_forward_pre_hook(lambda m, args: inputs.append(args[0].detach()))
    weight = getattr(module, f"lora_{matrix}")
    before = weight.detach().clone()
    step(method, model, batch, 1)
    assert torch.equal(weight, before)  # the interval is 2
    step(method, model, batch, 2)
    # the same by loops, padding left out
    norms = []
    for x in inputs:
        x = (x if matrix == "A" else x @ module.lora_A.T).detach()
        rows = [x[i, j] for i in range(4) for j in range(9) if batch["attention_mask"][i, j]]
        norms.append(
            [math.sqrt(sum(float(row[k]) ** 2 for row in rows)) for k in range(x.shape[-1])]
        )
    moving = [0.9 * a + 0.1 * b for a, b in zip(*norms, strict=True)]
    torch.testing.assert_close(method.norms[name], torch.tensor(moving), rtol=1e-4, atol=1e-4)
    scores = [
        [abs(float(before[j, k])) * moving[k] for k in range(before.shape[1])]
        for j in range(before.shape[0])
    ]
    if scope == "matrix":
        scores = [[score for row in scores for score in row]]
    for row, values in zip(weight.detach().view(len(scores), -1), scores, strict=True):
        lowest = sorted(range(len(values)), key=values.__getitem__)[: len(values) // 2]
        assert set((row == 0).nonzero().flatten().tolist()) == set(lowest)
    other = "lora_B" if matrix == "A" else "lora_A"
    assert all(getattr(module, other).all() for module in lora_modules(model).values())


@pytest.mark.parametrize("regrow", [True, False])
def test_pruned_entries_grow_again_or_stay(batch, regrow):
    method = prilora(regrow=regrow)
    model = installed(method)
    randomise(model, "lora_A", "lora_B")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for number in (1, 2, 3):
        optimizer.zero_grad()
        model.train()
        model(**batch).loss.backward()
        optimizer.step()
        method.on_step_end(model, number)
    for name, module in lora_modules(model).items():
        assert int((~method.masks[name]).sum()) == module.rank * (module.in_features // 2)
        assert bool(module.lora_A[~method.masks[name]].any()) == regrow


def test_prilora_without_and_with_random_pruning(batch):
    for pruning in ("none", "random"):
        method = prilora(pruning=pruning, interval=1)
        model = installed(method)
        step(method, model, batch, 1)
        zeros = [int((module.lora_A == 0).sum()) for module in lora_modules(model).values()]
        assert (max(zeros) == 0) if pruning == "none" else (min(zeros) > 0)
        first = {name: module.lora_A.clone() for name, module in lora_modules(model).items()}
        again = prilora(pruning=pruning, interval=1)
        model = installed(again)
        step(again, model, batch, 1)
        assert all(
            torch.equal(module.lora_A, first[name]) for name, module in lora_modules(model).items()
        )


def test_padding_does_not_change_what_is_pruned(batch):
    wider = {
        key: torch.nn.functional.pad(batch[key], (0, 6), value=v)
        for key, v in (("input_ids", 1), ("attention_mask", 0))
    }
    norms = []
    for given in (batch, wider | {"labels": batch["labels"]}):
        method = prilora(interval=1)
        model = installed(method)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        step(method, model, given, 1)
        norms.append(method.norms)
    for name, values in norms[0].items():
        torch.testing.assert_close(norms[1][name], values)


def test_validation_and_a_second_look_at_a_step_leave_the_norms_alone(batch):
    method = prilora()
    model = installed(method)
    model.train()
    model(**batch)
    norms = {name: values.clone() for name, values in method.norms.items()}
    model(**batch)  # as checkpointed activations are computed twice
    model.eval()
    method.on_step_end(model, 1)
    model(**batch)
    assert all(torch.equal(method.norms[name], values) for name, values in norms.items())


def test_relative_positions_are_no_inputs(batch):
    """DeBERTaV3's query projection is applied to them, too."""
    method = prilora(target_modules="query_proj", decay=0.0)
    model = installed(method, "deberta").train()
    inputs = {}
    for name, module in lora_modules(model).items():
        module.register_forward_pre_hook(
            lambda m, args, name=name: inputs.setdefault(name, []).append(args[0].detach())
        )
    model(**batch)
    for name, (tokens, positions) in inputs.items():
        assert positions.shape[0] == 1
        kept = tokens[batch["attention_mask"] > 0]
        torch.testing.assert_close(method.norms[name], kept.norm(dim=0))


def test_keep_largest_leaves_out_the_share_asked_for():
    importance = torch.rand(6, 50)
    assert (~keep_largest(importance, 0.75, "row")).sum(1).tolist() == [37] * 6
    assert int((~keep_largest(importance, 0.75, "matrix")).sum()) == 225


def test_concentrated_ranks_are_as_many_in_the_upper_half():
    for ends in ((4, 12), (2, 14), (6, 10), (8, 8)):
        assert sum(concentrated_ranks(*ends, 12)) == sum(linear_ranks(*ends, 12)) == 96
    model = installed(prilora(distribution="concentrated"))
    assert {site.layer: m.rank for site, m in lora_sites(model).items()} == {1: 8, 2: 8}


def test_pruning_by_magnitude_looks_at_the_entries_alone(batch):
    method = prilora(pruning="magnitude", interval=1)
    model = installed(method)
    randomise(model, "lora_A", "lora_B")
    before = {name: module.lora_A.detach().clone() for name, module in lora_modules(model).items()}
    step(method, model, batch, 1)
    assert not method.norms
    for name, module in lora_modules(model).items():
        for old, new in zip(before[name].tolist(), module.lora_A.tolist(), strict=True):
            order = sorted(range(len(old)), key=lambda k: abs(old[k]))
            lowest = set(order[: len(old) // 2])
            assert new == [0.0 if k in lowest else old[k] for k in range(len(old))]


@pytest.mark.parametrize(("pruning", "zero"), [("importance", True), ("none", False)])
def test_the_reached_sparsity_is_reported(pruning, zero, batch):
    method = prilora(pruning=pruning, interval=1, ratio=0.25)
    model = installed(method)
    step(method, model, batch, 1)
    if not zero:
        assert method.result_fields() == {}
        return
    modules = lora_modules(model).values()
    zeros = sum(int((module.lora_A == 0).sum()) for module in modules)
    size = sum(module.lora_A.numel() for module in modules)
    assert zeros == size // 4
    (note,) = method.result_fields()["notes"]
    assert f"{zeros:,} of {size:,} entries of A are zero at the end (25.0 %, " in note
